"""Estimate memory and speed of a recipe on given devices without running it there (``e4t plan``)."""
