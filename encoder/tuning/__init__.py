"""Tune a concept on one or a few images."""
