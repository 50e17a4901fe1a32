"""The figures of a node's daemons and devices, as metrics: made from what each tells of itself.

Every daemon has the same five (backlog, age of the oldest, paused, rate, failures), so that one alert covers all of them,
and others of its own under its name. Every device of this machine has its state and what it holds; one that does not answer
is `up 0` and nothing else, since yesterday's figures are no figures. A fenced one answers, and serves reads from the files
that it has open, also when its directory is gone: it is up, and fenced. Each of the two has its own cause and its own alert.

Names follow Prometheus: base units, `_total` for what only grows (added by who shows it).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from proxy.node_metrics import COUNTER, GAUGE, Family, leave, take_away
from replicator.daemon import Daemon
from replicator.peers import Peer, Peers
from ringstead.services.daemons.desk import Desk
from storage_node.operations import FoundStatistics, GetStatistics, Statistics

WRITE_S: Final = 5.0
ASK_TIMEOUT_S: Final = 3.0
_COMMON: Final = ("backlog", "oldest_s", "paused")
_DEVICE: Final = (
    ("total_bytes", GAUGE, "Size of its file system."),
    ("free_bytes", GAUGE, "Free space on its file system."),
    ("log_bytes", GAUGE, "Size of its log."),
    ("log_live_bytes", GAUGE, "Of the log, what is not dead."),
    ("blob_bytes", GAUGE, "Size of its large objects."),
    ("object_count", GAUGE, "Objects."),
    ("tombstone_count", GAUGE, "Notes of deleted objects."),
    ("container_count", GAUGE, "Containers."),
    ("account_count", GAUGE, "Accounts."),
    ("row_count", GAUGE, "Rows of containers and accounts."),
    ("writes", COUNTER, "Writes that it answered."),
    ("syncs", COUNTER, "Syncs of its log."),
    ("sync_seconds", COUNTER, "Time that these took."),
    ("corrupt", COUNTER, "Reads by its own process that found wrong bytes."),
)

log = structlog.get_logger("ringstead.figures")


async def leave_figures(folder: Path, service: str, desk: Desk, peers: Peers) -> None:
    """Leave them for the proxies of this machine, again and again until cancelled; then take them away."""
    failing = False
    try:
        while True:
            families = [*daemon_families(desk), *await device_families(peers)]
            try:
                await trio.to_thread.run_sync(leave, folder, service, families, time.time())
                failing = False
            except OSError as error:
                if not failing:
                    log.warning("the figures can't be left for the proxies", folder=str(folder), reason=str(error))
                failing = True
            await trio.sleep(WRITE_S)
    finally:
        with suppress(OSError):
            take_away(folder, service)


# --------------------------------------------------------------------------------------------------------------- daemons


def daemon_families(desk: Desk) -> list[Family]:
    """What all daemons tell."""
    backlog = Family("ringstead_daemon_backlog", "What is known to wait for the daemon.", GAUGE)
    oldest = Family("ringstead_daemon_oldest_seconds", "How long the oldest of it has waited.", GAUGE)
    paused = Family("ringstead_daemon_paused", "1 while an operator holds it.", GAUGE)
    rate = Family("ringstead_daemon_rate", "How fast it may go, in the unit that the label says.", GAUGE)
    failures = Family("ringstead_daemon_failures", "How often it failed and was begun again.", COUNTER)
    families = [backlog, oldest, paused, rate, failures]
    for name, daemon in desk.daemons.items():
        statistics = daemon.statistics()
        backlog.add(statistics.backlog, daemon=name)
        oldest.add(statistics.oldest_s, daemon=name)
        paused.add(statistics.paused, daemon=name)
        failures.add(desk.failures[name], daemon=name)
        for one in daemon.rates:
            rate.add(one.get(), daemon=name, rate=one.name)
        families += _own_families(daemon, statistics._asdict())
    return families


def _own_families(daemon: Daemon, statistics: dict[str, Any]) -> list[Family]:
    """Those of one daemon's figures that the others do not have. A list counts, a dictionary has a label."""
    families = []
    rates = {rate.name for rate in daemon.rates}
    for field, value in statistics.items():
        if field in _COMMON or field in rates:
            continue
        name = f"ringstead_{daemon.name}_{_in_base_units(field)}"
        counter = field in daemon.counters
        text = f"`{field}` of `ringstead daemon {daemon.name}`" + (", since it started." if counter else ".")
        family = Family(name, text, COUNTER if counter else GAUGE)
        if isinstance(value, dict):
            for key, item in value.items():
                family.add(item, of=str(key))
        else:
            family.add(len(value) if isinstance(value, (tuple, list)) else value)
        families.append(family)
    return families


def _in_base_units(field: str) -> str:
    return f"{field.removesuffix('_s')}_seconds" if field.endswith("_s") else field


# --------------------------------------------------------------------------------------------------------------- devices


async def device_families(peers: Peers) -> list[Family]:
    """What the devices of this machine tell, asked all at once."""
    answers: dict[int, Statistics | None] = {}
    local = peers.local

    async def ask(peer: Peer) -> None:
        answer = await peer.client.call(GetStatistics(), timeout_s=ASK_TIMEOUT_S)
        answers[peer.device.id] = answer.statistics if isinstance(answer, FoundStatistics) else None

    async with trio.open_nursery() as nursery:
        for peer in local:
            nursery.start_soon(ask, peer)
    return families_of([(peer, answers.get(peer.device.id)) for peer in local])


def families_of(devices: Sequence[tuple[Peer, Statistics | None]]) -> list[Family]:
    """Figures of devices; None for one that does not answer."""
    up = Family("ringstead_device_up", "1 if its process answers for it, fenced or not.", GAUGE)
    fenced = Family("ringstead_device_fenced", "1 while it takes no writes, until it is released.", GAUGE)
    full = Family("ringstead_device_full", "1 while it takes no data for want of room.", GAUGE)
    filling = Family("ringstead_device_filling", "1 while it may lack what it once acknowledged.", GAUGE)
    others = [Family(f"ringstead_device_{field}", text, kind) for field, kind, text in _DEVICE]
    for peer, statistics in devices:
        device = peer.device
        labels = {"device": device.name, "region": str(device.region), "zone": str(device.zone)}
        up.add(statistics is not None, **labels)
        if statistics is None:
            continue
        fenced.add(bool(statistics.fenced), **labels)
        full.add(bool(statistics.full), **labels)
        filling.add(bool(statistics.filling), **labels)
        for family, (field, _, _) in zip(others, _DEVICE, strict=True):
            family.add(getattr(statistics, field), **labels)
    return [up, fenced, full, filling, *others]
