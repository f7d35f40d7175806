"""Tuned concepts: tokens, weight deltas, and their files."""
