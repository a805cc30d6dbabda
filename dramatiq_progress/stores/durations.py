"""The durations of past runs: a histogram for each actor and estimate key, and what it says about the next run.

A bucket is 1.25 times as wide as the one before it, so an estimate is about right at 0.1 s and at 44 h. The text of a
histogram is described in tally.lua.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.progress import FINAL_STATES

from .encoding import Call, Tally, flat, milliseconds

#: The buckets: the lower end of the first, the ratio of two neighbours' ends, and their number. The last one ends at
#: 44 hours. Shorter and longer runs are in the first and the last.
SHORTEST_SECONDS = 0.1
RATIO = 1.25
BUCKETS = 64

#: Number of runs above which counts are halved. The median of an actor that has become four times slower is right after
#: 36 more runs.
MAX_RUNS = 64
#: Counts below are dropped.
MIN_COUNT = 0.1

#: How long durations are kept after the last run.
TTL_SECONDS = 30 * 24 * 3600
#: Maximum number of estimate keys of an actor.
MAX_KEYS = 20

#: Number of runs from which an estimate is made.
MIN_RUNS = 5
#: The fractions of runs that take at most as long as `Estimate.run` and `Estimate.run_most`.
USUAL, MOST = 0.5, 0.9
#: If runs differ more than this, an estimate wouldn't help.
MAX_SPREAD = 10

#: How long a process uses the estimates that it has read, and of how many actors.
CACHE_SECONDS = 30.0
CACHE_ACTORS = 1_000

#: The runs of an actor: their number by bucket, by estimate key.
Runs = Mapping[str, Mapping[int, int]]


class Estimate(NamedTuple):
    """The usual duration of a run.

    Attributes:
      run: Median in seconds.
      run_most: The duration that nine of ten runs don't exceed, in seconds.
    """

    run: float
    run_most: float


def bucket_of(duration: float) -> int:
    """Return the bucket of a duration in seconds."""
    if duration <= SHORTEST_SECONDS:
        return 0
    return min(int(math.log(duration / SHORTEST_SECONDS, RATIO)), BUCKETS - 1)


def counts_of(histogram: str) -> dict[int, float]:
    """Return the number of runs in each bucket.

    Raises:
      ValueError: The histogram isn't one that this version of the package writes.
    """
    pairs = (pair.split(":") for pair in histogram.split(" ")[1:])
    return {int(bucket): float(count) for bucket, count in pairs}


def estimate(histogram: str) -> Estimate | None:
    """Return the estimate of a histogram; None if it has too few runs, or they differ too much.

    Raises:
      ValueError: See `counts_of`.
    """
    counts = sorted(counts_of(histogram).items())
    runs = sum(count for _, count in counts)
    if not MIN_RUNS <= runs < math.inf:
        return None
    found = Estimate(_quantile(counts, USUAL * runs), _quantile(counts, MOST * runs))
    return found if found.run_most <= MAX_SPREAD * found.run else None


def _quantile(counts: Sequence[tuple[int, float]], wanted: float) -> float:
    """Return the duration that this number of runs don't exceed; within a bucket they are evenly distributed."""
    ends = accumulate(count for _, count in counts)
    bucket, count, end = next((*each, end) for each, end in zip(counts, ends, strict=True) if end >= wanted)
    return float(SHORTEST_SECONDS * RATIO ** (bucket + 1 - (end - wanted) / count))


def tally(histograms: dict[str, str], now: float, given: Tally, runs: Mapping[str, str]) -> list[str]:
    """See tally.lua."""
    refused: list[str] = []
    for key, added in runs.items():
        if key not in histograms and not _has_room(histograms, now, given):
            refused.append(key)
            continue
        counts = counts_of(histograms.get(key, ""))
        for bucket, count in counts_of(f"0 {added}").items():
            counts[bucket] = counts.get(bucket, 0.0) + count
        share = 1.0
        while sum(counts.values()) * share > int(given.max_runs):
            share /= 2
        texts = [
            f"{bucket}:{counts[bucket] * share:.4g}" for bucket in sorted(counts) if counts[bucket] * share >= MIN_COUNT
        ]
        histograms[key] = " ".join([str(int(now)), *texts])
    return refused


def _has_room(histograms: dict[str, str], now: float, given: Tally) -> bool:
    if len(histograms) >= int(given.max_keys):
        for key, histogram in list(histograms.items()):
            if now - float(histogram.partition(" ")[0]) > int(given.ttl) / 1000:
                del histograms[key]
    return len(histograms) < int(given.max_keys)


class Durations:
    """The durations in a store. Estimates are read once in `CACHE_SECONDS` for each actor, so polls don't cost more.

    Parameters:
      call: Runs scripts; see `Store._call`.
      key: Returns the key of an actor's durations.
    """

    def __init__(self, call: Callable[[Sequence[Call]], list[Any]], key: Callable[[str], str]) -> None:
        self._call = call
        self._key = key
        # By actor: when they were read, by `time.monotonic`, and the estimate of each key. Only used through operations
        # that are atomic in CPython.
        self._known: dict[str, tuple[float, dict[str, Estimate | None]]] = {}

    def add(self, runs: Mapping[str, Runs]) -> dict[str, list[str]]:
        """Count runs of actors. Those that can't be written now are lost, which changes no estimate much.

        Returns:
          The estimate keys that were refused, by actor, since it has `MAX_KEYS` others.
        """
        calls = [Call("tally", (self._key(actor),), _tally_arguments(of_keys)) for actor, of_keys in runs.items()]
        answers = zip(runs, self._call(calls), strict=True)
        return {actor: refused for actor, refused in answers if refused and not isinstance(refused, StoreUnavailable)}

    def estimates(self, records: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], Estimate | None]:
        """Return what is known of the runs of unfinished messages, by `run_of` their records."""
        wanted = {run_of(each) for each in records if each.get("queue") and each.get("state") not in FINAL_STATES}
        now = time.monotonic()
        found = {actor: self._known.get(actor) for actor, _ in wanted}
        missing = [actor for actor, known in found.items() if known is None or now - known[0] > CACHE_SECONDS]
        if missing:
            # Not as a reader that waits for the end of an outage: an estimate isn't worth that.
            answers = self._call([Call("durations", (self._key(actor),)) for actor in missing])
            if len(self._known) + len(missing) > CACHE_ACTORS:
                self._known.clear()
            for actor, answer in zip(missing, answers, strict=True):
                found[actor] = self._known[actor] = (now, _estimates_of(answer))
        return {(actor, key): known[1].get(key) for actor, key in wanted if (known := found[actor]) is not None}


def run_of(record: Mapping[str, str]) -> tuple[str, str]:
    """Return the actor and the estimate key of a message."""
    return record.get("actor", ""), record.get("estimate_key", "")


def _tally_arguments(runs: Runs) -> list[str]:
    # Of more keys than an actor can have, those with the most runs.
    keys = sorted(runs, key=lambda key: -sum(runs[key].values()))[:MAX_KEYS]
    texts = {key: " ".join(f"{bucket}:{count}" for bucket, count in runs[key].items()) for key in keys}
    return [*Tally(milliseconds(TTL_SECONDS), str(MAX_RUNS), str(MAX_KEYS)), *flat(texts)]


def _estimates_of(answer: Any) -> dict[str, Estimate | None]:
    if isinstance(answer, StoreUnavailable):
        return {}
    found: dict[str, Estimate | None] = {}
    for key, histogram in zip(answer[::2], answer[1::2], strict=True):
        try:
            found[key] = estimate(histogram)
        except (ArithmeticError, ValueError):
            # Another program, or a later version of this package, has written it.
            found[key] = None
    return found
