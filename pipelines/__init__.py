"""The commands and jobs: the only package that imports both ``encoder`` and ``data_prep``."""
