"""Read tables of images and Hugging Face datasets."""
