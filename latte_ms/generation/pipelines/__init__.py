"""Text-to-video pipelines with diffusers' arguments, names and folders."""
