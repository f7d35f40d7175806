"""Synthetic datasets for the demos: faces and emoji."""
