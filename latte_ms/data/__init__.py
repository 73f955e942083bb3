"""Video files and frame folders to batches of pixels in [-1, 1]."""
