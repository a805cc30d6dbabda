"""The worker's side: from an actor's report to the store.

`actors` and `delivery` give an actor its `observer`, which notifies the `recorder`. The recorder takes the `changes` of
all observers, with their `rate`, and writes them with one `Store.report` (stores/reporting.py), which runs report.lua.
"""
