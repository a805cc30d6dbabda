"""The requests of many threads in one round trip: each gets its own answer, whatever happens to the others."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from dramatiq_progress.stores.redis import batching
from dramatiq_progress.stores.redis.batching import RequestBatcher
from tests.waiting import wait_until


class Server:
    """Answers each request with its own text when its gate is open, and keeps the requests of each round trip."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.trips: list[list[str]] = []
        self.apart: list[list[str]] = []
        self.interrupted = 0
        self.is_gone = False
        self.batcher = RequestBatcher(self.exchange, self.exchange_apart)

    def exchange(self, requests: Sequence[str]) -> list[str]:
        self.trips.append(list(requests))
        assert self.gate.wait(30)
        if "interrupt" in requests and not self.interrupted:
            self.interrupted += 1
            raise KeyboardInterrupt
        if self.is_gone:
            raise ConnectionError
        return [f"answer to {each}" for each in requests]

    def exchange_apart(self, requests: Sequence[str]) -> list[str]:
        self.apart.append(list(requests))
        return [f"answer to {each}" for each in requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # On a busy machine, threads would lose their patience before the last one is queued.
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 60.0)
    made = Server()
    yield made
    made.gate.set()


@contextmanager
def sending(server: Server, *requests: str) -> Iterator[dict[str, str | BaseException]]:
    """Send each request in a thread of its own, in this order; the answers are complete when the block has ended."""
    answers: dict[str, str | BaseException] = {}

    def send(request: str) -> None:
        try:
            answers[request] = server.batcher.send(request)
        except BaseException as error:
            answers[request] = error

    threads = [threading.Thread(target=send, args=[request]) for request in requests]

    def begun() -> int:
        # A thread that loses its patience is in the last one before it leaves the one in the middle.
        return len(server.trips) + len(server.batcher._waiting) + len(server.apart)

    for i, thread in enumerate(threads):
        thread.start()
        # Each is sent, or is queued, before the next one starts.
        wait_until(lambda i=i: begun() > i or server.gate.is_set())
    yield answers
    server.gate.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_a_single_thread_sends_without_waiting(server: Server) -> None:
    server.gate.set()
    assert server.batcher.send("a") == "answer to a"
    assert server.batcher.send("b") == "answer to b"
    assert server.trips == [["a"], ["b"]]


def test_requests_that_arrive_during_a_round_trip_are_sent_together(server: Server) -> None:
    later = [f"later {i}" for i in range(5)]
    with sending(server, "first", *later) as answers:
        pass
    assert [sorted(trip) for trip in server.trips] == [["first"], later]
    assert answers == {request: f"answer to {request}" for request in ["first", *later]}
    assert server.batcher.send("next") == "answer to next"


def test_requests_in_the_batch_of_an_interrupted_thread_are_sent_again(server: Server) -> None:
    with sending(server, "first", "interrupt", "with it", "too") as answers:
        pass
    assert server.interrupted == 1
    assert isinstance(answers["interrupt"], KeyboardInterrupt)
    assert answers["with it"] == "answer to with it" and answers["too"] == "answer to too"
    assert server.batcher.send("next") == "answer to next"
    assert server.apart == []


def test_an_interrupted_thread_passes_its_turn_on(server: Server) -> None:
    server.gate.set()
    with pytest.raises(KeyboardInterrupt):
        server.batcher.send("interrupt")
    assert server.batcher.send("next") == "answer to next"


def test_a_thread_whose_turn_does_not_come_sends_apart(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 0.01)
    with sending(server, "first", "impatient") as answers:
        wait_until(lambda: "impatient" in answers)
    assert server.apart == [["impatient"]]
    assert answers["impatient"] == "answer to impatient"
    assert server.batcher.send("next") == "answer to next"
    assert server.trips == [["first"], ["next"]]


def test_threads_that_wait_for_a_server_that_does_not_answer_get_its_error(server: Server) -> None:
    server.is_gone = True
    with sending(server, "first", "later", "last") as answers:
        pass
    assert server.trips == [["first"]]
    assert {type(answer) for answer in answers.values()} == {ConnectionError}
    server.is_gone = False
    assert server.batcher.send("next") == "answer to next"


def test_an_answer_is_freed_without_the_garbage_collector() -> None:
    """A cycle of its objects in each round trip would cost a poll 3 % of its time."""

    class Answer:
        pass

    def exchange(requests: Sequence[str]) -> list[Answer]:
        return [Answer() for _ in requests]

    batcher = RequestBatcher(exchange, exchange)
    gc.disable()
    try:
        answer = weakref.ref(batcher.send("one"))
        assert answer() is None
    finally:
        gc.enable()
