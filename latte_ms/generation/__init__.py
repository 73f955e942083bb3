"""From classes, prompts and seeds to videos on disk."""
