"""Users of the tests: a visitor, the owner of a message, another user, and staff, each with a client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import owned_by, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import Store

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "dramatiq_progress.requests.OwnerMiddleware",
]

NAMES = ("anonymous", "owner", "another", "staff")


class People:
    """The four users.

    Attributes:
      broker: The broker that their messages are sent to.
      users: All but the visitor, by name.
      clients: The clients of all four, by name.
    """

    def __init__(self, broker: StubBroker) -> None:
        self.users = {
            name: User.objects.create(username=name, is_staff=name == "staff") for name in NAMES if name != "anonymous"
        }
        self.clients = {name: Client() for name in NAMES}
        for name, user in self.users.items():
            self.clients[name].force_login(user)
        self.broker = broker
        self._actor = progress_actor(broker=broker, actor_name="work", cancellable=True)(lambda: None)

    def send(self, whom: Any = None) -> str:
        """Send a message and return its id. Its owner is a user by name, or any argument of `owned_by`."""
        with owned_by(self.users[whom] if isinstance(whom, str) else whom):
            return self._actor.send().message_id

    def who_gets(self, path: str) -> set[str]:
        """Return the names of the users whose response is a 200."""
        return {name for name, client in self.clients.items() if client.get(path).status_code == 200}


@pytest.fixture
def people(db: None, settings: Any, memory_store: Store) -> Iterator[People]:
    """The four users, on a site with sessions, users and `OwnerMiddleware`."""
    settings.MIDDLEWARE = MIDDLEWARE
    broker = StubBroker(middleware=[ProgressMiddleware()])
    yield People(broker)
    broker.close()
