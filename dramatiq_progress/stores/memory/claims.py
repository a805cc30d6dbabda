"""The rules of the scripts of schedules, as functions on a record in memory: see `transitions`, and schedules.py."""

from __future__ import annotations

from collections.abc import Mapping

from dramatiq_progress.stores import encoding
from dramatiq_progress.stores.encoding import seconds

from .prelude import Outcome, Record


def declare(record: Record, now: float, given: encoding.Declare, unsent: Mapping[str, str]) -> Outcome:
    """See declare.lua."""
    before, last = record.get("fingerprint"), float(record.get("last", 0))
    start = float(given.known or 0)
    if before is None and start:
        record["lost_at"] = seconds(now)
    elif before != given.fingerprint:
        start = now
    if _is_held(record, now, given.hold):
        for tick, message_id in unsent.items():
            record.setdefault(f"open:{tick}", f"{seconds(now)} {message_id}")
    if before == given.fingerprint and last >= start:
        return Outcome("refused")
    record |= {"fingerprint": given.fingerprint, "last": seconds(max(last, start))}
    return Outcome("written", given.ttl)


def claim(record: Record, now: float, given: encoding.Claim) -> Outcome:
    """See claim.lua."""
    clock = seconds(now)
    if "last" not in record:
        return Outcome(("unknown", "", "", clock))
    if _is_held(record, now, given.hold):
        return Outcome(("held", "", record["last"], clock))
    message_id, name, tick = given.message_id, f"open:{given.tick}", float(given.tick)
    if given.late and now - tick > float(given.late):
        return Outcome(("late", "", record["last"], clock))
    taken = Outcome(("taken", "", record["last"], clock))
    if name in record:
        claimed_at, first_id = record[name].split(" ")
        if first_id != message_id and now - float(claimed_at) < float(given.lease):
            return taken
        message_id = first_id
    elif tick <= float(record["last"]):
        return taken
    elif tick > now + float(given.early):
        return Outcome(("early", "", record["last"], clock))
    else:
        record["last"] = given.tick
        if given.skipped == "1":
            record["skipped"] = str(int(record.get("skipped", 0)) + 1)
    if message_id:
        record[name] = f"{clock} {message_id}"
    return Outcome(("claimed", message_id, record["last"], clock), given.ttl)


def confirm(record: Record, now: float, given: encoding.Confirm) -> Outcome:
    """See confirm.lua."""
    was_open = record.pop(f"open:{given.tick}", None) is not None
    if not was_open and given.message_id in ("", record.get("sent_id")):
        return Outcome("refused")
    tick = given.tick or seconds(now)
    if given.message_id:
        record["sent"] = str(int(record.get("sent", 0)) + 1)
        if float(tick) >= float(record.get("sent_tick", 0)):
            record |= {"sent_id": given.message_id, "sent_tick": tick}
            record.pop("outcome", None)
    return Outcome("written", given.ttl, only_later=True)


def conclude(record: Record, given: encoding.Conclude) -> Outcome:
    """See conclude.lua."""
    if record.get("sent_id") != given.message_id:
        return Outcome("refused")
    record["outcome"] = given.state
    return Outcome("written")


def _is_held(record: Record, now: float, hold: str) -> bool:
    return abs(now - float(record.get("lost_at", 0))) < float(hold)
