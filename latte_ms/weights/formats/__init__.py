"""The file formats: each reader gives `Tensors`, each writer takes them one tensor at a time."""
