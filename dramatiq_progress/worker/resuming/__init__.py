"""Loops that go on where an earlier attempt was: their sources, and the cursor that the next attempt gets."""
