"""Judgements of generated videos."""
