"""The constants of a speed: of a message, in worker/observing/rate.py, and of a composite, in composite.lua."""

#: No speed before this many samples (of a composite: contributions), and this many seconds.
MIN_SAMPLES = 3
MIN_SECONDS = 2.0
#: Older samples count for less than a third; in long runs, those older than this part of the run.
MEMORY_SECONDS = 10.0
MEMORY_PART = 0.15
