"""Commands: one small module each; the only place that prints and exits."""
