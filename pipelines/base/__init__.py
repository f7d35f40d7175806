"""A tiny Stable Diffusion, trained from scratch on the drawn faces: tokenizer, autoencoder, CLIP, UNet, in that order."""
