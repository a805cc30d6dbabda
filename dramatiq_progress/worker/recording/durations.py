"""The durations of this process's runs, counted until the recorder writes them together with the heartbeats."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque

from dramatiq_progress.stores import Store
from dramatiq_progress.stores.durations import MAX_KEYS, bucket_of

#: How many runs are kept while the store is unavailable; the oldest are dropped first.
KEPT_RUNS = 10_000

logger = logging.getLogger(__name__)


class FinishedRuns:
    """The runs since the last write. A killed process loses them, which changes no estimate much."""

    def __init__(self) -> None:
        # Actor, estimate key and bucket. Filled by any thread, and emptied by the recorder's, by atomic operations.
        self._runs: deque[tuple[str, str, int]] = deque(maxlen=KEPT_RUNS)
        self._refused_actors: set[str] = set()

    def add(self, actor: str, estimate_key: str, seconds: float) -> None:
        """Note that a run has succeeded after this time."""
        self._runs.append((actor, estimate_key, bucket_of(seconds)))

    def write(self, store: Store, *, are_kept: bool) -> None:
        """Count the runs in the store.

        Parameters:
          are_kept: Whether the project keeps durations; otherwise the runs are dropped.
        """
        counts: defaultdict[str, defaultdict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
        for _ in range(len(self._runs)):
            actor, estimate_key, bucket = self._runs.popleft()
            counts[actor][estimate_key][bucket] += 1
        if counts and are_kept:
            for actor, refused in store.durations.add(counts).items():
                self._log_refused(actor, refused)

    def _log_refused(self, actor: str, refused: list[str]) -> None:
        if actor in self._refused_actors:
            return
        self._refused_actors.add(actor)
        logger.warning(
            "Not keeping durations of %s with estimate_key=%r: it has had %d others in 30 days, which is the limit. "
            "Such messages run as always, and have no estimate. Use fewer keys, for instance one for small inputs and "
            "one for large ones.",
            actor,
            refused[0],
            MAX_KEYS,
        )
