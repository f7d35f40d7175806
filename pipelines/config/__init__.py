"""The recipe: one typed, frozen configuration for every stage."""
