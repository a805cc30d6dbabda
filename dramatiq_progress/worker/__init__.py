"""The worker's side: from an actor's report to the store.

`actors` and `delivery` give an actor its `observer`. Its `binding` to one attempt keeps what the actor reports, and
notifies the `recorder`: its thread takes the `changes` of all `running` messages, with their `rate`, and writes them
with one `Store.flush` (stores/reporting.py), which runs report.lua.
"""
