"""Toolchains: one module per format, each imported only inside its worker process."""
