"""The worker's side: from an actor's report to the store.

`actors` and `delivery` give an actor its `observer`. It keeps the `values` that the actor reports, and notifies the
`recorder`, whose thread takes the `changes` of all `running` observers, with their `rate`, and writes them with one
`Store.flush` (stores/reporting.py), which runs report.lua.
"""
