"""What is set on a device before it is measured, and put back afterwards: one module per knob, one journal."""
