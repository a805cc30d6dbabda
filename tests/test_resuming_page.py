"""The code of docs/resuming.md, unchanged: each block goes on after failures, and does no item twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.contrib.auth.models import User
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import ProgressObserver
from tests.servers import ROOT

PAGE = (ROOT / "docs" / "resuming.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n# tasks.py\n(.*?)```", PAGE, re.DOTALL)


class Broken(Exception):
    """Raised at chosen items."""


class Page(NamedTuple):
    orders: list[int]
    next: str | None


class Api:
    """Three pages of orders, by page token."""

    def orders(self, after: str | None) -> Page:
        number = int(after or 0)
        return Page([number], str(number + 1) if number < 2 else None)


class Shop:
    """The functions that the page's actors call. Each fails at its second call, and notes the others."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self._calls: dict[str, int] = {}

    def fail_again(self, name: str) -> None:
        """Let a function fail at its next second call."""
        self._calls.pop(name, None)

    def function(self, name: str, answer: Callable[..., Any] = lambda *_: None) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self._calls[name] = self._calls.get(name, 0) + 1
            if self._calls[name] == 2:
                raise Broken
            self.done.append((name, *map(str, args)))
            return answer(*args)

        return call


def actors(shop: Shop, broker: StubBroker, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the page as a module."""
    module: dict[str, Any] = {"__name__": "shop.tasks", "api": Api()}
    for name in ("save", "send_letter", "lock_accounts", "close", "render_pages", "send_page"):
        module[name] = shop.function(name)
    module["as_user"] = shop.function("as_user", lambda row: User(username=row["name"]))
    module |= {"list_accounts": lambda: ["a", "b"], "list_pages": lambda: ["p", "q", "r"]}
    with monkeypatch.context() as patched:
        patched.setattr("dramatiq.broker.global_broker", broker)
        for block in BLOCKS:
            exec(block, module)  # noqa: S102 - our own
    return module


def run(actor: Any, *args: Any) -> ProgressObserver:
    """Run an actor until an attempt succeeds, each with the cursor of the one before; return the last observer."""
    text, number = "", 1
    while True:
        observer = ProgressObserver()
        observer._binding._go_on({"cursor": text} if text else {})
        try:
            actor.fn(observer, *args)
        except Broken:
            text, number = observer._binding.resumption().text(number), number + 1
        else:
            assert number > 1
            return observer


@pytest.mark.django_db
def test_the_code_of_the_page_does_each_item_once(
    broker: StubBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shop = Shop()
    module = actors(shop, broker, monkeypatch)
    people = tmp_path / "people.csv"
    people.write_text("name\n" + "".join(f"user{i}\n" for i in range(1200)))
    observer = run(module["import_users"], str(people), 1200)
    assert (observer.current, observer.total, User.objects.count()) == (1200, 1200, 1200)

    User.objects.all().delete()
    shop.fail_again("as_user")
    observer = run(module["import_all"], str(people))
    assert (observer.current, User.objects.count()) == (1200, 1200)

    names = [f"user{i}" for i in range(1200)]
    shop.done.clear()
    run(module["send_newsletter"])
    assert shop.done == [("send_letter", name) for name in names]

    shop.done.clear()
    run(module["fetch_orders"])
    assert shop.done == [("save", f"[{i}]") for i in range(3)]

    shop.done.clear()
    run(module["close_year"])
    letters = [("send_letter", name) for name in names]
    assert shop.done == [("lock_accounts",), ("close", "a"), ("close", "b"), *letters]

    shop.done.clear()
    run(module["publish"])
    assert shop.done == [("render_pages",), *(("send_page", page) for page in "pqr")]


def test_each_block_of_the_page_is_run() -> None:
    assert len(BLOCKS) == PAGE.count("```") // 2 == 6
