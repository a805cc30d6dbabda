"""How many streams a process may have, and one client of it: a place for each, which is taken and given back."""

from __future__ import annotations

import logging
import threading
from collections import deque
from ipaddress import ip_address, ip_network

from .conf import configuration
from .errors import DramatiqProgressError

logger = logging.getLogger(__name__)


class TooManyStreams(DramatiqProgressError):
    """There is no place for one more stream, now.

    Attributes:
      is_of_client: Whether it is this client who has too many.
    """

    def __init__(self, *, is_of_client: bool) -> None:
        super().__init__()
        self.is_of_client = is_of_client


class _Places:
    """How many streams this process has, and each of their clients."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken = 0
        self.by_client: dict[str, int] = {}
        # Those that were given back. Not under the lock: a place may be dropped wherever Python collects garbage.
        self.free: deque[str] = deque()
        self.has_told = False

    def take(self, client: str) -> None:
        limits = configuration()
        with self.lock:
            while self.free:
                self._count(self.free.popleft(), -1)
            if limits.max_streams and self.taken >= limits.max_streams:
                self._tell_once(
                    f"This process has {self.taken:,} streams (MAX_STREAMS); the bars of further pages poll."
                )
                raise TooManyStreams(is_of_client=False)
            of_client = self.by_client.get(client, 0)
            if client and limits.max_streams_per_client and of_client >= limits.max_streams_per_client:
                self._tell_once(
                    f"The client at {client!a} has {of_client:,} streams (MAX_STREAMS_PER_CLIENT); its further bars "
                    "poll. If that is the address of a proxy, have the server take the client's own from it."
                )
                raise TooManyStreams(is_of_client=True)
            self._count(client, 1)

    def _count(self, client: str, change: int) -> None:
        self.taken += change
        self.by_client[client] = self.by_client.get(client, 0) + change
        if not self.by_client[client]:
            del self.by_client[client]

    def _tell_once(self, text: str) -> None:
        # A flood of requests must not be one of lines.
        if not self.has_told:
            self.has_told = True
            logger.warning("%s", text)


_places = _Places()


class Place:
    """One of the streams that a process may have. It is free again when it is given back, or is dropped.

    Parameters:
      client: Whose stream it is; empty: nobody knows.

    Raises:
      TooManyStreams: There are as many as the settings allow.
    """

    __slots__ = ("_client", "_places")

    def __init__(self, client: str) -> None:
        self._client: str | None = None
        self._places = _places
        self._places.take(client)
        self._client = client

    def give_back(self) -> None:
        """Let another stream have it. May be called from any thread, and twice."""
        client, self._client = self._client, None
        if client is not None:
            self._places.free.append(client)

    def __del__(self) -> None:
        self.give_back()


def client_of(address: str) -> str:
    """Who counts as one client: an IPv4 address, or the network of an IPv6 one, of which a client has 2^64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
