"""Round trips over redis-py's connections: each request gets its own answer, also after trouble with the one before."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from dramatiq_progress.stores import round_trips
from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.stores.round_trips import Request, RoundTrips
from tests.waiting import wait_until


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(f"{valkey}/1") as made:
        yield made


@pytest.fixture
def pool(valkey: str) -> Iterator[redis.ConnectionPool]:
    options = {"retry": Retry(NoBackoff(), 0), "decode_responses": True, "client_name": "round-trips"}
    made = redis.ConnectionPool.from_url(f"{valkey}/1", **options)
    yield made
    made.disconnect()


@pytest.fixture
def trips(pool: redis.ConnectionPool) -> RoundTrips:
    return RoundTrips(pool)


def echo(text: str) -> Request:
    return Request("", ("ECHO", text))


def ours(client: redis.Redis) -> list[dict[str, str]]:
    return [each for each in client.client_list() if each["name"] == "round-trips"]


def close_from_the_server(client: redis.Redis) -> None:
    for each in ours(client):
        client.client_kill_filter(_id=each["id"])


def connections_made(client: redis.Redis) -> int:
    stats: Any = client.info("stats")
    return int(stats["total_connections_received"])


def test_each_request_has_its_answer_and_a_refused_one_its_error(trips: RoundTrips) -> None:
    first, error, last = trips.make([echo("a"), Request("", ("ECHO",)), echo("b")])
    assert (first, last) == ("a", "b")
    assert isinstance(error, ResponseError)


def test_a_connection_is_used_again(trips: RoundTrips, client: redis.Redis) -> None:
    for number in range(20):
        assert trips.make([echo(str(number))]) == [str(number)]
    assert len(ours(client)) == 1


def test_one_that_the_server_has_closed_is_noticed_before_it_is_used(
    trips: RoundTrips, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_trips, "KEPT_SECONDS", 0.0)
    for text in ("before", "after"):
        assert trips.make([echo(text)]) == [text]
        close_from_the_server(client)


def test_one_that_is_closed_while_it_is_used_all_the_time_is_replaced(trips: RoundTrips, client: redis.Redis) -> None:
    for text in ("before", "after", "again"):
        assert trips.make([echo(text)]) == [text]
        close_from_the_server(client)


def test_a_server_that_does_not_answer_costs_one_time_out(pool: redis.ConnectionPool, client: redis.Redis) -> None:
    pool.connection_kwargs["socket_timeout"] = 0.3
    trips = RoundTrips(pool)
    trips.make([echo("before")])
    before = connections_made(client)
    with pytest.raises(redis.TimeoutError):
        trips.make([Request("", ("BLPOP", "round-trips:nothing", "5"))])
    assert connections_made(client) == before


def test_the_retries_of_the_options_are_made(pool: redis.ConnectionPool, client: redis.Redis) -> None:
    pool.connection_kwargs |= {"retry": Retry(NoBackoff(), 2), "socket_timeout": 0.3}
    before = connections_made(client)
    with pytest.raises(redis.TimeoutError):
        RoundTrips(pool).make([Request("", ("BLPOP", "round-trips:nothing", "5"))])
    assert connections_made(client) == before + 3


def test_a_forked_child_uses_none_of_its_parents_connections(trips: RoundTrips, client: redis.Redis) -> None:
    trips.make([echo("before")])
    child = os.fork()
    if child == 0:
        os._exit(0 if trips.make([echo("child")]) == ["child"] and len(ours(client)) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert trips.make([echo("after")]) == ["after"]
    assert len(ours(client)) == 1


def test_the_answer_that_an_interrupted_thread_left_is_nobody_elses(trips: RoundTrips, client: redis.Redis) -> None:
    trips.make([echo("before")])
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until(lambda: any(each["cmd"] == "blpop" and "b" in each["flags"] for each in client.client_list()))
        signal.pthread_kill(main, signal.SIGUSR1)

    def interrupted(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGUSR1, interrupted)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            trips.make([Request("", ("BLPOP", "round-trips:list", "20"))])
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, handler)
    client.rpush("round-trips:list", "late")
    assert trips.make([echo("after")]) == ["after"]
    client.delete("round-trips:list")


def test_one_connection_is_enough(valkey: str) -> None:
    store = RedisStore(prefix="round-trips:", url=f"{valkey}/1", max_connections=1)
    errors: list[Exception] = []

    def read() -> None:
        try:
            for _ in range(20):
                store.read(["none"])
                store.ping()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    store.close()
