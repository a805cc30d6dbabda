"""The notifications of a store: a `Listener` gets them as long as its `Subscription` is open. See `Store.subscribe`.

Each store has a subscription of its own: redis/subscription.py, or that of memory/store.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol


class Listener(Protocol):
    """The receiver of notifications. All methods are called in a thread of the store's or a writer's; don't block."""

    def on_change(self, message_id: str) -> None:
        """The record of this message has changed in a way that a reader sees."""

    def on_begin(self) -> None:
        """The subscription is active. Changes before this call may have been missed."""

    def on_break(self, error: Exception) -> None:
        """The subscription is interrupted; `on_begin` is called when it is active again."""


class Subscription(ABC):
    """The handle that `Store.subscribe` returns."""

    @abstractmethod
    def close(self) -> None:
        """Stop notifying the listener, and release what was held for it. Doesn't block."""
