"""Shipped device profiles (data only)."""
