"""When a reader should ask again: what is known of a message becomes seconds. Pure arithmetic, no clock of its own.

The aim is a bar that is never more than about 1 % or 1 s behind, and no request that could not have told anything new.
"""

from __future__ import annotations

#: What is said is never less and never more than this.
SHORTEST_SECONDS = 0.25
LONGEST_SECONDS = 10.0
#: A job that is quick to end still has a lively bar.
LIVELY_SECONDS = 0.5
#: How far a bar may fall behind, as a part of the whole: a long job costs 80 requests, whatever its length.
LAG_OF_WHOLE = 0.0125
#: How late something may be noticed that nobody can foresee, as a part of the time for which it has been awaited.
LAG_OF_TIME = 0.03
#: How long a place in the line takes at the least.
PLACE_SECONDS = 0.1
#: How soon a late retry is asked for again, at first.
LATE_RETRY_SECONDS = 1.0
#: A broker takes seconds to minutes to notice that a worker is gone.
LOST_SECONDS = 2.0


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
    """Seconds until it is worth asking again, from `SHORTEST_SECONDS` to `LONGEST_SECONDS`.

    Parameters are those of `Progress`, which says what each means. The rules:

    - Running at a known rate towards a known total: `LAG_OF_WHOLE` of the time that the whole takes, or just after its
      end is due, whichever comes first.
    - Running without total or rate: `LAG_OF_TIME` of the time that it has run.
    - To be retried: just after the retry is due.
    - Waiting in a queue: no sooner than those before it can have been served.
    - Whatever has been silent, also beyond the time when something was due: `LAG_OF_TIME` of the silence.
    """
    if state == "running":
        seconds = _while_running(current, total, rate, elapsed or 0.0, silence)
    elif state == "retrying":
        if retry_in:
            return _bounded(retry_in + SHORTEST_SECONDS)
        seconds = min(SHORTEST_SECONDS + silence, LATE_RETRY_SECONDS)
    elif state == "enqueued":
        seconds = max(LIVELY_SECONDS, (queue_position or 0) * PLACE_SECONDS)
    elif state == "delayed":
        seconds = LIVELY_SECONDS
    elif state == "lost":
        seconds = LOST_SECONDS
    else:  # It has ended, and nothing more will be said.
        return LONGEST_SECONDS
    return _bounded(max(seconds, LAG_OF_TIME * silence))


def _while_running(current: float, total: float | None, rate: float | None, elapsed: float, silence: float) -> float:
    if not total or rate is None:
        return max(LIVELY_SECONDS, LAG_OF_TIME * elapsed)
    usual = max(LIVELY_SECONDS, LAG_OF_WHOLE * total / rate)
    left = max(0, total - current) / rate - silence
    # What is overdue is waited for as long again as it is overdue: so a bar at 100 % that has not ended is no hurry.
    return min(usual, abs(left) + SHORTEST_SECONDS)


def _bounded(seconds: float) -> float:
    return round(min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS), 2)
