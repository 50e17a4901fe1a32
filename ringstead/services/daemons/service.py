"""The service `daemons`: all background work of one node in one process.

Problem: what makes replicas agree, keeps bytes right, totals exact and tombstones few has to run on every node, beside the
devices and beside the clients, on machines with two processors and little memory.

Idea: one process a node for all of it. The daemons share the rings in force and the connections to all devices (`Peers`),
and take turns in one thread: they are there to be slow. A process each would cost 35 MiB and a connection to every device
five times over, and its one gain, that they fail apart, the desk gives as well (daemon_desk.py).

What acts on objects as a client would (expirer, reaper, and the auditor where a listing lacks an object) goes through the
proxy's own store, connected for good beside the peers: what is to be decided there by majority, locks and conditions is
decided in one place.

A new daemon is a class in `replicator/` with a method `daemon()` that describes it, and a line in `_make_daemons`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog
import trio

from proxy.cluster import Cluster
from proxy.store import ObjectStore
from replicator.auditor import Auditor, AuditorSettings
from replicator.daemon import Daemon
from replicator.expirer import Expirer, ExpirerSettings
from replicator.peers import Peers
from replicator.reaper import Reaper, ReaperSettings
from replicator.reclaim import Reclaimer, ReclaimSettings
from replicator.replicator import Replicator, ReplicatorSettings
from replicator.updater import Updater, UpdaterSettings
from ring.generations import Generations, finish
from ringstead.errors import ClusterBusy, ConfigError
from ringstead.processes.control import control_path, serve_control
from ringstead.processes.life import Stop
from ringstead.rings.following import RingFollower
from ringstead.rings.in_force import addresses
from ringstead.rings.spread import sources_of
from ringstead.services.daemons.desk import Desk
from ringstead.services.daemons.node_figures import leave_figures
from ringstead.services.daemons.state import DaemonState
from ringstead.services.daemons.store_daemons import StoreGraves, StoreQueue, mend_row
from ringstead.settings.cluster_key import load_cluster_key
from ringstead.settings.config import DaemonsConfig
from storage_node.timestamp import Clock

log = structlog.get_logger("ringstead.daemons")


async def run_daemons(config: DaemonsConfig, stop: Stop, ready: Callable[[], None]) -> None:
    """Run this node's daemons until told to stop. Raises RingsteadError where it cannot begin."""
    follower = RingFollower(config, absent_too=True)
    peers = Peers(
        follower.rings[0],
        load_cluster_key(config.cluster_key_file),
        address_of=addresses(config),
        local_devices=follower.local_devices(),
    )
    peers.adopt(follower.rings, follower.local_devices())
    clock = Clock(config.writer)
    cluster = Cluster(
        follower.rings,
        load_cluster_key(config.cluster_key_file),
        clock,
        addresses(config),
        follower.local_devices(),
    )
    sources = partial(sources_of, peers.by_id)
    daemons = _make_daemons(config, peers, follower.generations, clock, ObjectStore(cluster))
    desk = Desk(daemons, DaemonState(config.state_file))
    async with trio.open_nursery() as nursery:
        await nursery.start(peers.run)
        await nursery.start(cluster.run)
        await follower.catch_up((peers, cluster), sources)
        nursery.start_soon(follower.run, (peers, cluster), sources)
        await nursery.start(desk.run)
        nursery.start_soon(leave_figures, config.socket_dir, config.title, desk, peers)
        if config.metrics_listen:
            await serve_metrics(nursery, config)
        await nursery.start(serve_control, control_path(config.socket_dir, config.title), desk.operations())
        ready()
        await stop.wait()
        nursery.cancel_scope.cancel()


def _make_daemons(
    config: DaemonsConfig, peers: Peers, generations: Generations, clock: Clock, store: ObjectStore
) -> list[Daemon]:
    replicator = Replicator(
        peers,
        clock,
        ReplicatorSettings(
            interval_s=config.replicator_interval_s,
            bytes_per_s=config.replicator_bytes_per_s,
            device_bytes_per_s=config.replicator_device_bytes_per_s,
            move_s_min=config.replicator_move_s,
        ),
        on_moved=lambda epoch: _end_move(generations, epoch),
        move_orders=lambda: generations.state.orders,
    )
    auditor = Auditor(
        peers,
        AuditorSettings(
            entries_per_s=config.auditor_entries_per_s,
            bytes_per_s=config.auditor_bytes_per_s,
            interval_s=config.auditor_interval_s,
        ),
        relist=partial(mend_row, store),
    )
    updater = Updater(
        peers,
        clock,
        UpdaterSettings(
            interval_s=config.updater_interval_s,
            containers_per_s_max=config.updater_containers_per_s,
            updates_per_s_max=config.updater_updates_per_s,
        ),
    )
    reclaimer = Reclaimer(
        peers,
        ReclaimSettings(
            age_s=config.reclaimer_age_s,
            interval_s=config.reclaimer_interval_s,
            entries_per_s=config.reclaimer_entries_per_s,
        ),
    )
    expirer = Expirer(
        StoreQueue(store),
        ExpirerSettings(interval_s=config.expirer_interval_s, objects_per_s_max=config.expirer_objects_per_s),
    )
    reaper = Reaper(
        StoreGraves(store),
        ReaperSettings(
            delay_s=config.reaper_delay_s,
            interval_s=config.reaper_interval_s,
            objects_per_s_max=config.reaper_objects_per_s,
        ),
    )
    return [daemon.daemon() for daemon in (replicator, auditor, updater, expirer, reaper, reclaimer)]


def _end_move(generations: Generations, epoch: int) -> None:
    """All data lies where the ring of that epoch says: the older rings are let go of."""
    try:
        finish(generations.path, epoch)
    except OSError as error:
        log.error("the rings of before can't be let go of", reason=str(error))


async def serve_metrics(nursery: trio.Nursery, config: DaemonsConfig) -> None:
    """Show what the services of this machine have left, at an address of its own. Raises RingsteadError.

    The HTTP server is loaded only where it is wanted.
    """
    from proxy.http.listeners import open_listeners
    from proxy.http.message import Request, Response
    from proxy.http.server import HttpServer
    from proxy.metrics import node_page

    async def show(request: Request) -> Response:
        if request.method not in ("GET", "HEAD") or request.path != b"/metrics":
            return Response(404, [(b"Content-Type", b"text/plain; charset=utf-8")], b"there is /metrics\n")
        kind = (b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8")
        return Response(200, [kind], await node_page(config.socket_dir))

    host, _, port = config.metrics_listen.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"metrics_listen {config.metrics_listen!r}: expected IP:PORT")
    try:
        listeners = open_listeners(host.strip("[]"), int(port))
    except OSError as error:
        raise ClusterBusy(f"{config.metrics_listen}: {error.strerror or error}") from error
    await nursery.start(HttpServer(show).serve, listeners)
