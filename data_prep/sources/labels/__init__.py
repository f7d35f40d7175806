"""Identities, captions and further columns of images that come from files beside them."""
