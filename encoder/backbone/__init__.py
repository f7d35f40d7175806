"""Base models: loading, text encoders and the two halves of the UNet."""
