"""The trained modules (domain encoder, weight offsets), the conditioning, the loss and the guidance."""
