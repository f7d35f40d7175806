"""Evaluate personalization on held-out concepts and compare E4T with other tuning methods."""
