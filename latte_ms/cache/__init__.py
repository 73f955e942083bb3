"""Videos that are encoded once and kept in a folder: docs/latent_cache.md."""
