"""What a recipe takes on so many devices, before anyone pays for them."""
