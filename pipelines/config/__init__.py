"""The recipe: one typed, frozen configuration for all stages."""
