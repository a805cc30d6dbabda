"""Stores with several servers: a master that Sentinels monitor, and a cluster; real processes on free ports.

Both are a `Topology`. It has the `options` for ``DRAMATIQ_PROGRESS["OPTIONS"]``, can lose the master of a key, and
returns the current master. Its servers can be killed, frozen and started again one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from redis.crc import key_slot
from redis.exceptions import RedisError

from tests import servers
from tests.certificates import Certificates
from tests.store_server import Server
from tests.waiting import wait_until

SERVICE_NAME = "progress"
SLOTS = 16384

#: After this time without an answer a master counts as down. The default is 30 s for Sentinel and 15 s for a cluster;
#: with a shorter time, a busy machine causes failovers.
DOWN_AFTER_MILLISECONDS = 1000

#: The same for servers that no test breaks: so long that no machine is too busy.
UNBROKEN_MILLISECONDS = 600_000

#: Redis 7.0 names a replica in CLUSTER SLOTS only after its master's first ping.
IN_MEMORY = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


class Topology(ABC):
    """The servers of one store.

    Attributes:
      options: For ``DRAMATIQ_PROGRESS["OPTIONS"]``.
      servers: The servers with data, masters and replicas.
      others: The Sentinels that monitor them.
    """

    def __init__(self, options: dict[str, Any], servers: Sequence[Server], others: Sequence[Server] = ()) -> None:
        self.options = options
        self.servers = list(servers)
        self.others = list(others)

    @abstractmethod
    def master(self, key: str = "") -> Server | None:
        """Return the master of this key according to the other servers; None if there is none that is alive."""

    def kill_master(self, key: str = "") -> Server:
        """Kill the master of a key, and return it. Its replica takes over after `DOWN_AFTER_MILLISECONDS` or more."""
        lost = self._wait_for_master(key)
        lost.kill()
        return lost

    def freeze_master(self, key: str = "") -> Server:
        """Freeze the master of a key, and return it. `Server.thaw` ends that."""
        lost = self._wait_for_master(key)
        lost.freeze()
        return lost

    def wait_for_failover(self, lost: Server, key: str = "") -> Server:
        """Wait until another server is the master of a key."""

        def new() -> Server | None:
            found = self.master(key)
            return found if found is not lost else None

        found = wait_until(new)
        assert found is not None
        return found

    def never_fail_over(self) -> None:
        """Let no silence cause a failover, for servers that no test breaks."""
        for each in self.others:
            each.ask("SENTINEL", "SET", SERVICE_NAME, "down-after-milliseconds", UNBROKEN_MILLISECONDS)
        for each in () if self.others else self.servers:
            each.ask("CONFIG", "SET", "cluster-node-timeout", UNBROKEN_MILLISECONDS)

    def masters(self) -> list[Server]:
        """Return the servers that accept writes."""
        return [each for each in self.servers if each.is_running() and each.is_master()]

    def stop(self) -> None:
        for each in (*self.others, *self.servers):
            each.stop()

    def _wait_for_master(self, key: str) -> Server:
        found = wait_until(lambda: self.master(key))
        assert found is not None
        return found

    def _server(self, port: int) -> Server:
        return next(each for each in self.servers if each.port == port)


class _Sentinels(Topology):
    def master(self, key: str = "") -> Server | None:
        for sentinel in self.others:
            with suppress(RedisError):
                found = self._server(int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE_NAME)[1]))
                return found if found.is_master() else None
        return None


def replace_master(sentinels: Topology) -> tuple[Server, Server]:
    """Replace the master as planned, and return the old and the new one. Both accept writes, for about 10 s."""
    old = sentinels.master()
    assert old is not None
    sentinels.others[0].ask("SENTINEL", "FAILOVER", SERVICE_NAME)
    return old, sentinels.wait_for_failover(old)


class _Cluster(Topology):
    def master(self, key: str = "") -> Server | None:
        slot = key_slot(key.encode())
        for each in self.servers:
            if not each.answers():
                continue
            for first, last, (_, port, *_rest), *_replicas in each.ask("CLUSTER SLOTS"):
                if first <= slot <= last:
                    found = self._server(port)
                    return found if found.is_master() else None
        return None


@contextmanager
def sentinel(folder: Path, certificates: Certificates | None = None) -> Iterator[Topology]:
    """Run a master, its replica, and three Sentinels that monitor them."""
    master = Server(folder, *IN_MEMORY, certificates=certificates)
    replica = Server(folder, *IN_MEMORY, "--replicaof", f"127.0.0.1 {master.port}", certificates=certificates)
    watchers = [_sentinel(folder, master, certificates) for _ in range(3)]
    options: dict[str, Any] = {"sentinels": [each.address for each in watchers], "service_name": SERVICE_NAME}
    if certificates:
        options |= {**certificates.of_client, "sentinel_kwargs": certificates.of_client}
    made = _Sentinels(options, [master, replica], watchers)
    with _running(made):
        wait_until(replica.is_in_sync)
        # A failover needs the votes of Sentinels that know each other, and of a replica.
        wait_until(lambda: all(_knows(each, sentinels=2, replicas=1) for each in watchers))
        yield made


def _sentinel(folder: Path, master: Server, certificates: Certificates | None) -> Server:
    port = servers.free_port()
    configuration = folder / f"sentinel-{port}.conf"
    configuration.write_text(
        f"sentinel monitor {SERVICE_NAME} 127.0.0.1 {master.port} 2\n"
        f"sentinel down-after-milliseconds {SERVICE_NAME} {DOWN_AFTER_MILLISECONDS}\n"
        f"sentinel failover-timeout {SERVICE_NAME} 3000\n"
    )
    return Server(folder, str(configuration), "--sentinel", port=port, certificates=certificates)


def _knows(sentinel: Server, *, sentinels: int, replicas: int) -> bool:
    flat = sentinel.ask("SENTINEL", "MASTER", SERVICE_NAME)
    found = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
    return (int(found["num-other-sentinels"]), int(found["num-slaves"])) == (sentinels, replicas)


@contextmanager
def cluster(
    folder: Path, certificates: Certificates | None = None, masters: int = 3, configuration: Sequence[str] = ()
) -> Iterator[Topology]:
    """Run a cluster of this many masters, each with a replica, and with further options for each node."""
    nodes = [_node(folder, certificates, *configuration) for _ in range(2 * masters)]
    options: dict[str, Any] = {"cluster": True, "startup_nodes": [each.address for each in nodes]}
    made = _Cluster(options | (certificates.of_client if certificates else {}), nodes)
    with _running(made):
        leaders, followers = nodes[:masters], nodes[masters:]
        for i, leader in enumerate(leaders):
            leader.ask("CLUSTER SET-CONFIG-EPOCH", i + 1)
            leader.ask("CLUSTER ADDSLOTSRANGE", i * SLOTS // masters, (i + 1) * SLOTS // masters - 1)
        for each in nodes[1:]:
            _join(each, nodes[0])
        names = [leader.ask("CLUSTER MYID") for leader in leaders]
        for name, follower in zip(names, followers, strict=True):
            wait_until(lambda follower=follower, name=name: name in str(follower.ask("CLUSTER NODES")))
            follower.ask("CLUSTER REPLICATE", name)
        wait_until(lambda: all(each.is_in_sync() for each in followers))
        wait_until(lambda: all(_sees(each, masters) for each in nodes))
        yield made


def add_node(cluster: Topology, folder: Path) -> Server:
    """Add a node without slots to a cluster."""
    made = _node(folder)
    cluster.servers.append(made)
    made.start()
    _join(made, cluster.servers[0])
    name = made.ask("CLUSTER MYID")
    wait_until(lambda: all(name in str(each.ask("CLUSTER NODES")) for each in cluster.servers))
    wait_until(lambda: made.ask("CLUSTER INFO")["cluster_state"] == "ok")
    return made


def _join(node: Server, member: Server) -> None:
    bus = node.command[node.command.index("--cluster-port") + 1]
    member.ask("CLUSTER MEET", "127.0.0.1", node.port, bus)


def move(cluster: Topology, keys: Sequence[str], target: Server) -> Iterator[str]:
    """Move the slots of these keys to a node, one after the other; yields a description of each step."""
    name = target.ask("CLUSTER MYID")
    for key in keys:
        slot, source = key_slot(key.encode()), cluster.master(key)
        assert source is not None
        if source is target:
            continue
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.ask("CLUSTER MYID"))
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", name)
        yield f"slot {slot} is about to move"
        for each in source.ask("CLUSTER GETKEYSINSLOT", slot, 1000):
            source.ask("MIGRATE", "127.0.0.1", target.port, each, 0, 5000)
        yield f"the keys of slot {slot} have moved"
        for each in (target, source):
            each.ask("CLUSTER SETSLOT", slot, "NODE", name)
        yield f"slot {slot} has moved"


def _node(folder: Path, certificates: Certificates | None = None, *configuration: str) -> Server:
    # By default the bus uses the port + 10000, which another process may use.
    port, bus = servers.free_port(), servers.free_port()
    return Server(
        folder,
        *("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-config-file", f"nodes-{port}.conf"),
        *("--cluster-node-timeout", str(DOWN_AFTER_MILLISECONDS), "--cluster-replica-validity-factor", "0"),
        *IN_MEMORY,
        *configuration,
        port=port,
        certificates=certificates,
    )


def _sees(node: Server, masters: int) -> bool:
    slots = node.ask("CLUSTER SLOTS")
    return node.ask("CLUSTER INFO")["cluster_state"] == "ok" and [len(each) for each in slots] == [4] * masters


@contextmanager
def _running(topology: Topology) -> Iterator[None]:
    try:
        for each in (*topology.servers, *topology.others):
            each.start()
        yield
    finally:
        topology.stop()
