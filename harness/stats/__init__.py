"""Statistics: pure functions of numbers, with no knowledge of stores or screens."""
