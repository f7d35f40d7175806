"""Data for demonstrations: drawn faces and emoji."""
