"""Devices: how to reach them and what they say of themselves."""
