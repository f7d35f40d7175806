"""A run's checkpoint as a folder to hand over: what is in it, where it comes from, what its card says."""
