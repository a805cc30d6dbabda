"""One server's connection: each command gets its own answer, also after trouble with the one before."""

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

from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.stores.redis.transport import Transport, connection_maker
from tests.waiting import PATIENT, wait_until

NAME = "transport"


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(f"{valkey}/1") as made:
        yield made


@pytest.fixture
def pool(valkey: str) -> Iterator[redis.ConnectionPool]:
    options = {"retry": Retry(NoBackoff(), 0), "client_name": NAME}
    made = redis.ConnectionPool.from_url(f"{valkey}/1", **options)
    yield made
    made.disconnect()


@pytest.fixture
def transport(pool: redis.ConnectionPool) -> Iterator[Transport]:
    made = Transport(connection_maker(pool))
    yield made
    made.close()


def echo(text: str) -> tuple[str, ...]:
    return ("ECHO", text)


def ours(client: redis.Redis) -> list[dict[str, str]]:
    return [each for each in client.client_list() if each["name"] == NAME]


def close_from_the_server(client: redis.Redis) -> None:
    for each in ours(client):
        client.client_kill_filter(_id=each["id"])


def connections_made(client: redis.Redis) -> int:
    stats: Any = client.info("stats")
    return int(stats["total_connections_received"])


def test_each_command_has_its_answer_and_a_refused_one_its_error(transport: Transport) -> None:
    first, error, last = transport.send([echo("a"), ("ECHO",), echo("b")])
    assert (first, last) == ("a", "b")
    assert isinstance(error, ResponseError)


def test_one_connection_is_used_for_all_commands(transport: Transport, client: redis.Redis) -> None:
    for number in range(20):
        assert transport.send([echo(str(number))]) == [str(number)]
    assert len(ours(client)) == 1


def test_a_connection_that_the_server_closed_is_replaced(transport: Transport, client: redis.Redis) -> None:
    for text in ("before", "after", "again"):
        assert transport.send([echo(text)]) == [text]
        close_from_the_server(client)


def test_a_server_that_does_not_answer_costs_one_timeout(pool: redis.ConnectionPool, client: redis.Redis) -> None:
    pool.connection_kwargs["socket_timeout"] = 0.3
    transport = Transport(connection_maker(pool))
    transport.send([echo("before")])
    before = connections_made(client)
    with pytest.raises(redis.TimeoutError):
        transport.send([("BLPOP", "transport:nothing", "5")])
    assert connections_made(client) == before
    transport.close()


def test_the_retries_of_the_options_are_made(pool: redis.ConnectionPool, client: redis.Redis) -> None:
    pool.connection_kwargs |= {"retry": Retry(NoBackoff(), 2), "socket_timeout": 0.3}
    transport = Transport(connection_maker(pool))
    before = connections_made(client)
    with pytest.raises(redis.TimeoutError):
        transport.send([("BLPOP", "transport:nothing", "5")])
    assert connections_made(client) == before + 3
    transport.close()


def test_a_forked_child_uses_none_of_its_parents_connections(transport: Transport, client: redis.Redis) -> None:
    transport.send([echo("before")])
    child = os.fork()
    if child == 0:
        os._exit(0 if transport.send([echo("child")]) == ["child"] and len(ours(client)) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert transport.send([echo("after")]) == ["after"]
    assert len(ours(client)) == 1


def test_the_answer_to_an_interrupted_thread_is_read_by_no_other(transport: Transport, client: redis.Redis) -> None:
    transport.send([echo("before")])
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
            transport.send([("BLPOP", "transport:list", "20")])
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, handler)
    client.rpush("transport:list", "late")
    assert transport.send([echo("after")]) == ["after"]
    client.delete("transport:list")


def test_a_command_that_cannot_be_encoded_fails_no_other_thread(transport: Transport) -> None:
    ended = threading.Event()
    errors: list[Exception] = []

    def send() -> None:
        try:
            while not ended.is_set():
                assert transport.send([echo("good")]) == ["good"]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        with pytest.raises(UnicodeError):
            transport.send([echo("\ud800")])
    ended.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_bytes_that_are_not_utf_8_are_replaced(transport: Transport, client: redis.Redis) -> None:
    client.set("transport:bytes", b"a\xffb", ex=60)
    assert transport.send([("GET", "transport:bytes"), echo("after")]) == ["a\ufffdb", "after"]


def test_one_connection_is_enough(valkey: str) -> None:
    store = RedisStore(prefix="transport:", url=f"{valkey}/1", **PATIENT, max_connections=1)
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
