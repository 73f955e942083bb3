"""The denoising networks."""
