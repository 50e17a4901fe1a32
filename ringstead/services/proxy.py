"""One HTTP worker: the ring's devices connected, the object model on them, both dialects on that, and the port.

It is ready when every device has been tried once, so that the first request of a client meets a connected cluster. It
follows the rings while it runs. Told to stop, it takes no more connections, finishes what runs, and goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final

import structlog
import trio

from proxy.cluster import Cluster
from proxy.http.limits import HttpLimits
from proxy.http.listeners import open_listeners
from proxy.http.server import HttpServer
from proxy.identity import Identity
from proxy.metrics import Metrics
from proxy.s3.app import S3App
from proxy.s3.settings import S3Settings
from proxy.server import ProxyServer
from proxy.store import ObjectStore
from proxy.swift.app import SwiftApp
from proxy.swift.settings import SwiftSettings
from ringstead.errors import ClusterBusy
from ringstead.processes.control import Answer, control_path, serve_control
from ringstead.processes.life import Stop
from ringstead.rings.following import RingFollower
from ringstead.rings.in_force import addresses
from ringstead.rings.spread import sources_of
from ringstead.settings.cluster_key import load_cluster_key
from ringstead.settings.config import ProxyConfig
from storage_node.timestamp import Clock

DRAIN_S: Final = 10.0
"""How long running requests may take to finish when it is told to stop."""


def log_access(
    method: str,
    target: bytes,
    status: int,
    received_bytes: int,
    sent_bytes: int,
    duration_s: float,
    transaction_id: str,
) -> None:
    """A line for each response. The query is left out: presigned requests carry their signature in it."""
    structlog.get_logger("access").info(
        "request",
        method=method,
        path=target.partition(b"?")[0].decode("latin-1"),
        status=status,
        received_bytes=received_bytes,
        sent_bytes=sent_bytes,
        duration_ms=round(duration_s * 1000, 3),
        transaction_id=transaction_id,
    )


async def run_proxy(config: ProxyConfig, stop: Stop, ready: Callable[[], None]) -> None:
    """Serve HTTP until told to stop. Raises RingsteadError where it cannot begin."""
    follower = RingFollower(config)
    key = load_cluster_key(config.cluster_key_file)
    cluster = Cluster(follower.rings, key, Clock(config.writer), addresses(config), follower.local_devices())
    store = ObjectStore(cluster)
    identity = Identity(store, key)
    metrics = Metrics(config.title, config.socket_dir)
    desk = ProxyServer(
        SwiftApp(store, identity, SwiftSettings()).handle,
        S3App(store, identity, S3Settings(region=config.s3_region, host_suffixes=config.s3_domains)).handle,
        metrics,
        healthy=lambda: "stopping" if stop.asked else unhealthy(cluster),
        access_log=log_access if config.access_log else None,
    )
    limits = HttpLimits(connection_count_max=config.connections_max, idle_s=config.idle_timeout_s)
    server = HttpServer(desk.handle, limits, access_log=desk.observe)

    async def statistics(_: Mapping[str, Any]) -> Answer:
        return {
            **asdict(server.statistics()),
            "late_rows": store.late_rows.statistics()._asdict(),
            "epochs": [ring.epoch for ring in cluster.rings],
            "ring_problem": follower.problem,
        }

    sources = partial(sources_of, cluster.replicas)

    try:
        listeners = open_listeners(config.listen, config.port, reuse_port=True)
    except OSError as error:
        raise ClusterBusy(f"{config.listen}:{config.port}: {error.strerror or error}") from error
    async with trio.open_nursery() as nursery:
        await nursery.start(cluster.run)
        await follower.catch_up((cluster,), sources)
        nursery.start_soon(follower.run, (cluster,), sources)
        await nursery.start(metrics.run)
        await nursery.start(serve_control, control_path(config.socket_dir, config.title), {"statistics": statistics})
        async with trio.open_nursery() as serving:
            await serving.start(partial(server.serve, listeners))
            ready()
            await stop.wait()
            server.stop(DRAIN_S)
        nursery.cancel_scope.cancel()


def unhealthy(cluster: Cluster) -> str:
    """Why this worker should get no requests now; "" while it should."""
    if any(replica.reachable for replica in cluster.replicas.values()):
        return ""
    return "no device of the ring is reachable from here"
