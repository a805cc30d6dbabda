"""Stream slots: the number of streams that a process may have, and that one client may have of them."""

from __future__ import annotations

import logging
import re
import weakref
from collections import deque
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from django.http import HttpRequest

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import DramatiqProgressError

#: An IPv6 address in brackets, with or without a port, or an IPv4 address with a port.
_WITH_PORT = re.compile(r"\[(?P<bracketed>[^]]*)\](:\d+)?|(?P<plain>[\d.]+):\d+")

logger = logging.getLogger(__name__)


class TooManyStreams(DramatiqProgressError):
    """The limit of streams is reached.

    Attributes:
      is_of_client: Whether it is ``MAX_STREAMS_PER_CLIENT`` and not ``MAX_STREAMS``.
    """

    def __init__(self, *, is_of_client: bool) -> None:
        super().__init__()
        self.is_of_client = is_of_client


class StreamSlots:
    """The slots of one hub, counted in total and per client. Use it in the hub's event loop only.

    The time to take a slot doesn't depend on the number of streams.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._taken_by: dict[str, int] = {}
        # The clients whose slots were released. A deque and no lock: a finalizer can run at any line of any thread.
        self._released: deque[str] = deque()
        self._logged: set[str] = set()

    @property
    def taken(self) -> int:
        """The number of slots in use."""
        return self._taken - len(self._released)

    def take(self, stream: object, client: str) -> weakref.finalize[..., Any]:
        """Take a slot for a stream.

        Parameters:
          stream: Its slot is released when it is garbage-collected, unless that happened before.
          client: The client, by `client_of`. Empty if unknown: then only the total is limited.

        Returns:
          A function that releases the slot. It can be called in any thread, and more than once.

        Raises:
          TooManyStreams: The limit is reached.
        """
        while self._released:
            self._count(self._released.popleft(), -1)
        self._check(client)
        release = weakref.finalize(stream, self._released.append, client)
        release.atexit = False
        self._count(client, 1)
        return release

    def _check(self, client: str) -> None:
        limits = configuration()
        if limits.max_streams and self._taken >= limits.max_streams:
            self._log_once(
                "Refusing a stream: this process has %s streams. Its page polls instead. Raise MAX_STREAMS if the "
                "server has memory and open files for more.",
                f"{self._taken:,}",
            )
            raise TooManyStreams(is_of_client=False)
        if limits.max_streams_per_client and not client:
            self._log_once(
                "The addresses of clients are unknown, as behind a proxy on a Unix socket, so MAX_STREAMS_PER_CLIENT "
                "isn't applied. Set TRUSTED_PROXIES to the number of proxies."
            )
        taken = self._taken_by.get(client, 0)
        if client and limits.max_streams_per_client and taken >= limits.max_streams_per_client:
            self._log_once(
                "Refusing a stream: the client at %a has %s streams. Its page polls instead. If that is the address of "
                "a proxy, set TRUSTED_PROXIES, or configure the server to read the client's address from it; otherwise "
                "raise MAX_STREAMS_PER_CLIENT.",
                client,
                f"{taken:,}",
            )
            raise TooManyStreams(is_of_client=True)

    def _count(self, client: str, change: int) -> None:
        self._taken += change
        self._taken_by[client] = self._taken_by.get(client, 0) + change
        if not self._taken_by[client]:
            del self._taken_by[client]

    def _log_once(self, text: str, *arguments: str) -> None:
        # A flood of requests must not flood the log.
        if text not in self._logged:
            self._logged.add(text)
            logger.warning(text, *arguments)


def client_of(request: HttpRequest) -> str:
    """Return the client whose limit a request counts for, as `network_of` its address. Empty if that is unknown.

    With ``TRUSTED_PROXIES`` it is the address that the first of these proxies appended to ``X-Forwarded-For``. Clients
    can forge the addresses in front of that one. A request that didn't pass that many proxies has the address that the
    server reports.
    """
    proxies = configuration().trusted_proxies
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    if 0 < proxies <= len(forwarded) and (address := forwarded[-proxies].strip()):
        return network_of(address)
    return network_of(request.META.get("REMOTE_ADDR") or "")


def network_of(address: str) -> str:
    """Return the client that an address counts as: an IPv4 address, or an IPv6 network (/64).

    A client chooses freely among the 2^64 addresses of its IPv6 network. A port is ignored: some proxies add it.
    """
    if match := _WITH_PORT.fullmatch(address):
        address = match["bracketed"] or match["plain"]
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    # A server that listens to both kinds of addresses reports IPv4 ones as ::ffff:192.0.2.1.
    return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
