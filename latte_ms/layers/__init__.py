"""Layers that know nothing of Latte, and the kernels each backend runs them with."""
