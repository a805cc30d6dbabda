"""The worker's side: from an actor's report to the store.

`delivery` opens an observer for the actor (`observing`). What the actor reports is kept by the observer's `binding` to
one attempt, which notifies the recorder (`recording`): its thread takes the `changes` of all `running` messages, with
their `rate`, and writes them with one `Store.flush` (stores/reporting.py), which runs report.lua.
"""
