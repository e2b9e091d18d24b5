"""Rows to text and pages. Formats only: aggregates nothing, prints nothing."""
