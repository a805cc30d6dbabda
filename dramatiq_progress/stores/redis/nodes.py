"""The health of each node of a cluster: while one can't be reached, the records of the others are written and read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dramatiq_progress.stores.health import Health


class NodeHealths:
    """The health of each node of a cluster.

    Parameters:
      probe: Sends one command with this key to the node that has it, and raises `StoreUnavailable` unless it succeeds.
    """

    def __init__(self, probe: Callable[[str], None]) -> None:
        self._probe = probe
        # By the node's name. Only used through operations that are atomic in CPython.
        self._healths: dict[str, Health] = {}
        # A key of the last command that each node didn't answer. Its slot may get another node meanwhile.
        self._keys: dict[str, str] = {}

    def of(self, node: str) -> Health:
        """Return the health of a node."""
        health = self._healths.get(node)
        if health is None:
            made = Health(partial(self._probe_node, node), name=f"node {node} of the progress store")
            health = self._healths.setdefault(node, made)
        return health

    def mark_unreachable(self, node: str, key: str, error: Exception, *, sent_at: float) -> None:
        """Start an outage of a node, which didn't answer a command with this key."""
        self._keys[node] = key
        self.of(node).mark_unreachable(error, sent_at=sent_at)

    def close(self) -> None:
        """Stop probing."""
        for health in list(self._healths.values()):
            health.close()

    def _probe_node(self, node: str) -> None:
        self._probe(self._keys[node])
