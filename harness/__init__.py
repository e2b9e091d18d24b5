"""Measure model variants on the devices one really has, and choose what to deploy where."""

__version__ = "0.1.0"
