"""What to read on a device, and pure parsers and metrics for it."""
