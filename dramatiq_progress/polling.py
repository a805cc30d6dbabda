"""The poll interval: the seconds until a reader's next poll is worthwhile. Pure arithmetic without a clock.

The aim is a bar that is at most about 1 % or 1 s behind, with no request that couldn't have returned anything new.
"""

from __future__ import annotations

#: Bounds of the interval.
SHORTEST_SECONDS = 0.25
LONGEST_SECONDS = 10.0
#: Minimum interval while running or waiting: short jobs have a lively bar.
LIVELY_SECONDS = 0.5
#: Allowed lag of a bar, as a fraction of the whole: a long job costs 80 polls, however long it runs.
LAG_OF_WHOLE = 0.0125
#: Allowed lag in noticing an unpredictable event, as a fraction of the time waited for it.
LAG_OF_TIME = 0.03
#: Minimum time per queue position.
POSITION_SECONDS = 0.1
#: Maximum interval just after a retry was due.
LATE_RETRY_SECONDS = 1.0
#: Minimum interval while lost: a broker needs seconds to minutes to notice that a worker has died.
LOST_SECONDS = 2.0
#: Bounds of the interval during an outage of the store, and the fraction of the time so far that lies between them.
SHORTEST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 30.0
RETRY_OF_OUTAGE = 0.1


def poll_after(
    *,
    state: str,
    silence: float = 0.0,
    current: float = 0,
    total: float | None = None,
    rate: float | None = None,
    elapsed: float | None = None,
    retry_in: float | None = None,
    queue_position: int | None = None,
) -> float:
    """Return the seconds until the next poll is worthwhile, from `SHORTEST_SECONDS` to `LONGEST_SECONDS`.

    The parameters are attributes of `Progress`. The rules:

    - Running, with a known rate and total: `LAG_OF_WHOLE` of the total run time, or just after the estimated end,
      whichever is sooner.
    - Running, without a total or a rate: `LAG_OF_TIME` of the time so far.
    - Retrying: just after the retry is due.
    - Enqueued: `POSITION_SECONDS` per queue position.
    - Always at least `LAG_OF_TIME` of the silence, including the time since something was due.
    """
    if state == "running":
        seconds = _while_running(current, total, rate, elapsed or 0.0, silence)
    elif state == "retrying":
        if retry_in:
            return _bounded(retry_in + SHORTEST_SECONDS)
        seconds = min(SHORTEST_SECONDS + silence, LATE_RETRY_SECONDS)
    elif state == "enqueued":
        seconds = max(LIVELY_SECONDS, (queue_position or 0) * POSITION_SECONDS)
    elif state in ("delayed", "paused"):
        seconds = LIVELY_SECONDS
    elif state == "lost":
        seconds = LOST_SECONDS
    else:  # Final: nothing more will change.
        return LONGEST_SECONDS
    return _bounded(max(seconds, LAG_OF_TIME * silence))


def retry_after(outage_seconds: float) -> float:
    """Return the seconds until the next poll is worthwhile in an outage of the store of this age."""
    return min(max(RETRY_OF_OUTAGE * outage_seconds, SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)


def _while_running(current: float, total: float | None, rate: float | None, elapsed: float, silence: float) -> float:
    if not total or rate is None:
        return max(LIVELY_SECONDS, LAG_OF_TIME * elapsed)
    usual = max(LIVELY_SECONDS, LAG_OF_WHOLE * total / rate)
    left = max(0, total - current) / rate - silence
    # An overdue end gets the same interval as it is overdue: a bar that stays at 100 % isn't urgent.
    return min(usual, abs(left) + SHORTEST_SECONDS)


def _bounded(seconds: float) -> float:
    return round(min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS), 2)
