"""The method's trained parts and its loss."""
