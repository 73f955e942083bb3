"""Metrics of generated videos: distances of distributions, and of single videos."""
