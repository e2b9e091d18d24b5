"""Ways to a device behind one contract (`base.Transport`)."""
