"""The service `controller`: servers and volumes looked after, operators' requests taken.

It opens its database (and brings the schema up to date), connects to the object store as a proxy does (images are objects),
follows the pools, and answers at its control socket. It is beside the object store, not in it: the store is up and usable
whether a controller runs or not.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
import trio

from proxy.cluster import Cluster
from proxy.store import ObjectStore
from ringstead.errors import RingsteadError
from ringstead.processes.control import control_path, serve_control
from ringstead.processes.life import Stop
from ringstead.rings.following import RingFollower
from ringstead.rings.in_force import addresses
from ringstead.rings.spread import sources_of
from ringstead.services.controller import topology as cloud_topology
from ringstead.services.controller.desk import ServerDesk
from ringstead.services.controller.images import StoreImages
from ringstead.services.controller.pool_desk import CloudDesk
from ringstead.settings.cluster_key import load_cluster_key
from ringstead.settings.config import ControllerConfig
from scheduler.claims.sql import SqlClaims
from scheduler.errors import SchedulerError
from scheduler.hypervisor import Hypervisor, HypervisorError
from scheduler.lifecycle.chooser import RingChooser, TrackedClaims
from scheduler.lifecycle.controller import Controller, ControllerSettings
from scheduler.lifecycle.database import Database
from scheduler.lifecycle.executor import ExecutorSettings
from scheduler.lifecycle.operations import Desk
from scheduler.lifecycle.pools import Pools
from scheduler.lifecycle.tasks import database_clock
from scheduler.lifecycle.tools import Tools
from scheduler.lifecycle.volume_operations import create_flavor
from scheduler.placement.settings import PlacementSettings
from scheduler.records import store
from scheduler.records.schema import open_database, sqlite_url
from scheduler.records.secrets import PoolSecrets
from scheduler.records.types import FlavorRecord, PoolRecord
from scheduler.xen.driver import XenPool
from scheduler.xen.settings import Address, PoolSettings
from storage_node.timestamp import Clock

log = structlog.get_logger("ringstead.controller")

SIMULATOR_USER: Final = "root"
SIMULATOR_PASSWORD: Final = "root"
SIMULATOR_TRIES: Final = 60
FIRST_FLAVORS: Final = (
    ("tiny", 256, 1, 1 << 30),
    ("small", 1024, 1, 10 << 30),
    ("medium", 4096, 2, 20 << 30),
    ("large", 8192, 4, 40 << 30),
)
"""Name, memory in MiB, vCPUs, bytes of disk."""


def placement_settings(config: ControllerConfig) -> PlacementSettings:
    """How hosts are weighed, as the settings say."""
    return PlacementSettings(
        spread=config.placement_spread,
        ring=config.placement_ring,
        image=config.placement_image,
        volume=config.placement_volume,
        failure=config.placement_failure,
        soft_affinity=config.placement_soft_affinity,
        choice_count=config.placement_choice_count,
        choice_margin=config.placement_choice_margin,
    )


def controller_settings(config: ControllerConfig) -> ControllerSettings:
    """How a controller works, as the settings say."""
    executor = ExecutorSettings(lease_s=config.lease_s)
    return ControllerSettings(look_s=config.look_s, executor=executor, vcpu_ratio=config.vcpu_ratio)


async def run_controller(config: ControllerConfig, stop: Stop, ready: Callable[[], None]) -> None:
    """Look after servers and volumes until told to stop. Raises RingsteadError where it cannot begin."""
    key = load_cluster_key(config.cluster_key_file)
    try:
        engine = open_database(config.database or sqlite_url(config.data_dir / "controller.db"))
    except SchedulerError as error:
        raise RingsteadError(str(error)) from error
    follower = RingFollower(config)
    cluster = Cluster(follower.rings, key, Clock(config.writer), addresses(config), follower.local_devices())
    sources = partial(sources_of, cluster.replicas)
    images = StoreImages(ObjectStore(cluster))
    secrets = PoolSecrets(key)
    claims = SqlClaims(engine, time.time)
    chooser = RingChooser(
        claims,
        time.monotonic,
        ring_seed=cluster.ring.seed,
        draw_seed=config.writer,
        settings=placement_settings(config),
    )
    database = Database(engine)
    owner = hashlib.sha256(b"ringstead cluster id" + key).hexdigest()[:16]

    def connect(record: PoolRecord, password: str) -> Hypervisor:
        return XenPool(pool_settings(record, password), owner)

    def reconnect(record: PoolRecord) -> Hypervisor:
        with engine.begin() as connection:
            return connect(record, secrets.open(connection, record.id))

    tools = Tools(
        database,
        TrackedClaims(claims, chooser.apply),
        Pools(reconnect),
        chooser,
        images,
        time.time,
        lambda: str(uuid.uuid4()),
        database_clock,
    )
    settings = controller_settings(config)
    topology = config.topology_file
    enter = None if topology is None else partial(cloud_topology.enter, topology)
    controller = Controller(config.title, tools, chooser, reconnect, settings, enter=enter)
    desk = CloudDesk(controller, secrets, connect)
    operations = {**ServerDesk(controller, images).operations(), **desk.operations()}
    async with trio.open_nursery() as nursery:
        await nursery.start(cluster.run)
        await follower.catch_up((cluster,), sources)
        nursery.start_soon(follower.run, (cluster,), sources)
        await nursery.start(controller.run)
        await nursery.start(serve_control, control_path(config.socket_dir, config.title), operations)
        if config.simulator:
            nursery.start_soon(_add_simulated, desk, controller, config.simulator)
        ready()
        await stop.wait()
        nursery.cancel_scope.cancel()
    engine.dispose()


def pool_settings(record: PoolRecord, password: str) -> PoolSettings:
    """A record as the driver wants it. ValueError where it makes no sense."""
    verify, ca_file = True, None
    fingerprints: tuple[str, ...] = ()
    kind, _, value = record.verify.partition(":")
    if kind == "off":
        verify = False
    elif kind == "pin":
        fingerprints = tuple(value.split(","))
    elif kind == "ca":
        ca_file = value
        if not Path(value).is_file():
            raise ValueError(f"there is no file {value} with authorities to trust")
    elif kind != "system":
        raise ValueError(f"verify {record.verify!r} is none of system, off, pin:FINGERPRINT, ca:FILE")
    return PoolSettings(
        record.name,
        (Address.parse(record.url),),
        record.user,
        password,
        verify=verify,
        ca_file=ca_file,
        fingerprints=fingerprints,
    )


async def _add_simulated(desk: CloudDesk, controller: Controller, url: str) -> None:
    """At the first start: the simulator's pools, one a zone, and a few flavors to begin with."""
    if await controller.read(lambda c: store.count_of(c, PoolRecord)):
        return
    await controller.request(_first_flavors)
    for _ in range(SIMULATOR_TRIES):
        try:
            masters = await trio.to_thread.run_sync(simulated_masters, url, abandon_on_cancel=True)
            for number, (name, address) in enumerate(masters, 1):
                record = PoolRecord(
                    controller.tools.new_id(), name, address, SIMULATOR_USER, "system", 1, number, time.time()
                )
                if not await controller.read(lambda c, name=name: store.count_of(c, PoolRecord, name=name)):  # type: ignore[misc]
                    await desk.add_pool(record, SIMULATOR_PASSWORD)
        except (OSError, ValueError, KeyError, SchedulerError, HypervisorError) as error:
            log.info("the simulator is not there yet", reason=str(error))
            await trio.sleep(1.0)
        else:
            log.info("the simulator's pools are added", pools=len(masters))
            return


def simulated_masters(url: str) -> list[tuple[str, str]]:
    """Name and URL of the master of each pool of a simulator. Blocks. OSError, ValueError, KeyError."""
    import urllib3

    try:
        response = urllib3.request("GET", f"{url.rstrip('/')}/_sim/", timeout=5.0, retries=False)
        pools = response.json()["pools"]
    except urllib3.exceptions.HTTPError as error:
        raise OSError(f"{urlsplit(url).netloc}: {error}") from error
    return [(pool["name"], next(host["url"] for host in pool["hosts"] if host["master"])) for pool in pools]


def _first_flavors(desk: Desk) -> None:
    if not store.count_of(desk.connection, FlavorRecord):
        for name, memory_mib, vcpus, disk_bytes in FIRST_FLAVORS:
            create_flavor(desk, name, memory_mib, vcpus, disk_bytes)
