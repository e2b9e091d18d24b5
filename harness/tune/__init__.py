"""A search joined to the converters and the runner: `converters.search` proposes, this room converts and measures, `harness.store` remembers."""
