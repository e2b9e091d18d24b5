"""Scripts that become the device, or run in it; never imported by the harness."""
