"""Decode, orient, crop, resize, convert and encode single images."""
