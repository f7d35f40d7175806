"""Checkpoints, which depend on neither the number of ranks nor the ZeRO stage."""
