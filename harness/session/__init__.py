"""A session while it is measured: its jobs in their order, each carried out, retried and stored as soon as it ends.

`harness.runner` opens and closes what this room uses; nothing here aggregates.
"""
