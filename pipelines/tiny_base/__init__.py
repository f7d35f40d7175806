"""A tiny Stable Diffusion, trained from scratch on the drawn faces: autoencoder, CLIP, then the UNet."""
