"""``e4t demo base``: train a tiny Stable Diffusion from scratch on drawn faces."""
