"""Random numbers for pauses, which keep processes from acting at the same moment."""

from __future__ import annotations

from random import SystemRandom

#: Of its own: the global generator is the project's, which may have seeded it, and forked processes share its state.
generator = SystemRandom()


def shortened(seconds: float) -> float:
    """Return a random part of a pause, from a half to the whole."""
    return seconds * generator.uniform(0.5, 1.0)
