"""How a command line reaches a cluster: the same store and clients as the services, for the time of one command.

With `--data DIR` it is the one-machine cluster there; with `--config FILE` whatever a proxy of this machine has in its
settings. Commands draw their writer number at random from a range that no service uses: two that run in the same
microsecond would have to draw the same of 512 to disturb each other.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from ringstead.errors import ClusterDown, RingsteadError, UsageError
from ringstead.one_machine.layout import DataDirectory, load_shape, service_names
from ringstead.settings.config import COMMAND_WRITER_FIRST, COMMAND_WRITER_LAST, ProxyConfig, ServiceConfig

if TYPE_CHECKING:
    from proxy.cluster import Cluster
    from proxy.identity import Identity

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Which cluster a command speaks to."""

    data: Path
    config: Path | None = None
    """A proxy's settings, instead of a data directory."""

    def settings(self) -> ProxyConfig:
        """The settings of one of its proxies. Raises RingsteadError."""
        from ringstead.settings.config_file import load

        if self.config is not None:
            return load(ProxyConfig, self.config)
        directory = DataDirectory(self.data.absolute())
        name = service_names(load_shape(directory))["proxy"][0]
        return load(ProxyConfig, directory.config_file(name))


def service_settings(data: Path, config: Path | None, name: str) -> ServiceConfig:
    """The settings in `config`, whose service says so itself; else of the service `name` of the cluster in `data`.

    For commands that speak to processes of this machine. Raises RingsteadError.
    """
    from ringstead.settings.config_file import load_any

    if config is not None:
        return load_any(config)
    directory = DataDirectory(data.absolute())
    load_shape(directory)
    if not directory.config_file(name).exists():
        raise UsageError(f"the cluster in {data} has no service {name!r}; `ringstead status` shows what it has")
    return load_any(directory.config_file(name))


def cluster_settings(data: Path, config: Path | None) -> ProxyConfig:
    """How to reach the cluster from here, by the settings of any service of this machine. Raises RingsteadError."""
    settings = service_settings(data, config, "proxy-1")
    if isinstance(settings, ProxyConfig):
        return settings
    return ProxyConfig(
        ring_file=settings.ring_file,
        cluster_key_file=settings.cluster_key_file,
        node=settings.node,
        socket_dir=settings.socket_dir,
    )


@asynccontextmanager
async def open_cluster(settings: ProxyConfig) -> AsyncIterator[Cluster]:
    """Connections to every device, as a proxy has them."""
    from proxy.cluster import Cluster
    from ringstead.rings.following import RingFollower
    from ringstead.rings.in_force import addresses
    from ringstead.rings.spread import sources_of
    from ringstead.settings.cluster_key import load_cluster_key
    from storage_node.timestamp import Clock

    follower = RingFollower(settings)
    clock = Clock(random.SystemRandom().randint(COMMAND_WRITER_FIRST, COMMAND_WRITER_LAST))
    cluster = Cluster(
        follower.rings,
        load_cluster_key(settings.cluster_key_file),
        clock,
        addresses(settings),
        follower.local_devices(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(cluster.run)
        await follower.catch_up((cluster,), lambda: sources_of(cluster.replicas))
        yield cluster
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_identity(settings: ProxyConfig) -> AsyncIterator[Identity]:
    """The users of a running cluster. Raises ClusterDown where too few devices are up to read or write any."""
    from proxy.identity import Identity
    from proxy.model import Unavailable
    from proxy.store import ObjectStore
    from ringstead.settings.cluster_key import load_cluster_key

    async with open_cluster(settings) as cluster:
        if not any(replica.reachable for replica in cluster.replicas.values()):
            raise ClusterDown("no device answers; is the cluster running? (`ringstead up`)")
        try:
            yield Identity(ObjectStore(cluster), load_cluster_key(settings.cluster_key_file))
        except Unavailable as error:
            raise ClusterDown(f"too few devices answer: {error}") from error


def run_command(command: Callable[[], Awaitable[T]]) -> T:
    """Run a command's asynchronous part; failures that have an explanation come out as RingsteadError."""
    from proxy.model import StoreError
    from proxy.users import IdentityError
    from ringstead.processes import logs
    from ringstead.processes.life import one_failure

    logs.set_up("command", "error")
    try:
        with one_failure():
            return trio.run(_call, command)
    except (IdentityError, StoreError) as error:
        raise RingsteadError(str(error) or type(error).__name__) from error


async def _call(command: Callable[[], Awaitable[T]]) -> T:
    return await command()
