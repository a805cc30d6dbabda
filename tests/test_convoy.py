"""The requests of many threads in one round trip: each gets its own answers, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from dramatiq_progress.stores import convoy
from dramatiq_progress.stores.convoy import Convoy
from tests.waiting import wait_until


class Server:
    """Answers each request with its own text, when its gate is open; keeps what came in each round trip."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.trips: list[list[str]] = []
        self.interrupted = 0
        self.is_gone = False
        self.convoy = Convoy(self.exchange)

    def exchange(self, requests: Sequence[str]) -> list[str]:
        self.trips.append(list(requests))
        assert self.gate.wait(30)
        if "interrupt" in requests and not self.interrupted:
            self.interrupted += 1
            raise KeyboardInterrupt
        if self.is_gone:
            raise ConnectionError
        return [f"answer to {each}" for each in requests]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.gate.set()


@contextmanager
def sending(server: Server, *parcels: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    """A thread for each parcel, begun in this order; what each got, by its first request, once the block has ended."""
    got: dict[str, list[str]] = {}

    def send(parcel: Sequence[str]) -> None:
        try:
            got[parcel[0]] = server.convoy.send(parcel)
        except KeyboardInterrupt:
            got[parcel[0]] = ["interrupted"]

    threads = [threading.Thread(target=send, args=[parcel]) for parcel in parcels]
    for i, thread in enumerate(threads):
        thread.start()
        # Each is on its way, or waits, before the next one comes.
        wait_until(lambda i=i: len(server.trips) + len(server.convoy._waiting) > i or server.gate.is_set())
    yield got
    server.gate.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_one_thread_waits_for_nobody(server: Server) -> None:
    server.gate.set()
    assert server.convoy.send(["a", "b"]) == ["answer to a", "answer to b"]
    assert server.convoy.send(["c"]) == ["answer to c"]
    assert server.trips == [["a", "b"], ["c"]]


def test_those_that_come_while_another_is_under_way_go_together(server: Server) -> None:
    later = [[f"later {i}", f"and {i}"] for i in range(5)]
    with sending(server, ["first"], *later) as got:
        pass
    assert server.trips == [["first"], [text for parcel in later for text in parcel]]
    assert got == {parcel[0]: [f"answer to {text}" for text in parcel] for parcel in [["first"], *later]}
    assert server.convoy.send(["next"]) == ["answer to next"]


def test_those_whom_an_interrupted_thread_took_along_send_again(server: Server) -> None:
    with sending(server, ["first"], ["interrupt"], ["along"], ["too"]) as got:
        pass
    assert server.interrupted == 1
    assert got["interrupt"] == ["interrupted"]
    assert got["along"] == ["answer to along"] and got["too"] == ["answer to too"]


def test_an_interrupted_thread_gives_its_way_back(server: Server) -> None:
    server.gate.set()
    with pytest.raises(KeyboardInterrupt):
        server.convoy.send(["interrupt"])
    assert server.convoy.send(["next"]) == ["answer to next"]


def test_a_thread_whose_turn_never_comes_goes_by_itself(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convoy, "PATIENCE_SECONDS", 0.01)
    with sending(server, ["first"], ["impatient"]) as got:
        wait_until(lambda: ["impatient"] in server.trips)
    assert got["impatient"] == ["answer to impatient"]
    assert server.convoy.send(["next"]) == ["answer to next"]


def test_those_who_wait_while_the_server_does_not_answer_are_told_and_do_not_try(server: Server) -> None:
    server.is_gone = True
    with sending(server, ["first"], ["later", "and"], ["last"]) as got:
        pass
    assert server.trips == [["first"]]
    assert [type(answer) for answer in got["later"] + got["last"] + got["first"]] == [ConnectionError] * 4
    server.is_gone = False
    assert server.convoy.send(["next"]) == ["answer to next"]
