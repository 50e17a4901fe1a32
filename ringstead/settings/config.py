"""The settings of each service: one frozen class a service, every field with its default and its reason.

Problem: a configuration sample of a thousand lines is read by nobody, drifts from the code, and a misspelt key in it is
silently ignored.

Idea: the class is the sample. Every field carries its sentence and its limits, `ringstead config show` prints them as a
TOML file that is valid as it stands, and loading checks name, type and range of every key. Every default is good
enough to start with, so a working file may be three lines.

Paths in a file are relative to that file's folder, so that a data directory can be moved as a whole.

Rejected: environment variables beside the file (two places to look), includes and inheritance between files.
"""

# ruff: noqa: RUF009 (`setting` makes dataclass fields, which is what the rule wants)

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from ringstead.errors import ConfigError

T = TypeVar("T")

LOG_LEVELS = ("debug", "info", "warning", "error")
PROXY_WRITER_FIRST = 1
PROXY_WRITER_LAST = 999
BACKGROUND_WRITER_FIRST = 1000
"""Daemons: 1000..3583."""
CONTROLLER_WRITER = 3500
COMMAND_WRITER_FIRST = 3584
COMMAND_WRITER_LAST = 4095
"""Short-lived command lines draw theirs at random from here; no service may be given one of these."""


def setting(
    default: T,
    text: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> T:
    """A field with its explanation and limits (checked when a file is loaded)."""
    metadata = {"text": text, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """What every service needs to know."""

    service: ClassVar[str] = ""

    name: str = setting("", "What logs and `ringstead status` call this process. Empty: the service's kind.")
    ring_file: Path = setting(Path("cluster.ring"), "The ring: which devices there are, and where each name belongs.")
    cluster_key_file: Path = setting(
        Path("cluster.key"),
        "The secret that all nodes share and prove to each other; at least 32 bytes, readable by its owner only.",
    )
    node: str = setting("127.0.0.1", "This machine's address, as the ring names it.")
    socket_dir: Path = setting(Path("run"), "Where services on one machine meet: Unix sockets of devices and control.")
    log_file: Path | None = setting(None, 'Where logs go, as JSON lines. "": to standard error, for people.')
    log_level: str = setting("info", "The least that is logged.", choices=LOG_LEVELS)
    log_file_bytes_max: int = setting(
        16 * 1024**2,
        "A log file that outgrows this becomes FILE.1, and what FILE.1 was is gone. Bytes.",
        minimum=64 * 1024,
    )

    @property
    def title(self) -> str:
        """The name that this process goes by."""
        return self.name or self.service


@dataclass(frozen=True, kw_only=True)
class StorageConfig(ServiceConfig):
    """A process that owns devices and serves them to proxies and replicators."""

    service: ClassVar[str] = "storage"

    devices_dir: Path = setting(Path("devices"), "The folder in which each device has its folder (or mount point).")
    devices: tuple[str, ...] = setting(
        (), "Names of the devices to serve, as the ring has them. Empty: all that the ring has for this node."
    )
    listen: str = setting("", "IP:PORT to serve the devices at. Empty: the addresses that the ring names for them.")
    create_devices: bool = setting(
        True,
        "Make a device where its folder is empty or missing. False: refuse, so that a disk that is not mounted is not "
        "taken for an empty one.",
    )
    inline_bytes_max: int = setting(
        512 * 1024,
        "Objects up to this size live in the log; longer ones get a file each. Bytes.",
        minimum=0,
        maximum=4 * 1024**2,
    )
    free_bytes_min: int = setting(
        512 * 1024**2,
        "With less free space than this on its file system a device takes no more data. Bytes.",
        minimum=16 * 1024**2,
    )
    free_bytes_min_delete: int = setting(
        256 * 1024**2,
        "With less free space than this it takes no deletions either: the rest is for compaction. Bytes.",
        minimum=8 * 1024**2,
    )


@dataclass(frozen=True, kw_only=True)
class ProxyConfig(ServiceConfig):
    """One HTTP worker. Several share a port: a file each, that differ in `name` and `writer`."""

    service: ClassVar[str] = "proxy"

    listen: str = setting("127.0.0.1", "The address to serve HTTP at. 0.0.0.0 or :: for all.")
    port: int = setting(8080, "The port to serve HTTP at.", minimum=1, maximum=65535)
    writer: int = setting(
        PROXY_WRITER_FIRST,
        "This process's number in the cluster. Two processes that write must never share one.",
        minimum=PROXY_WRITER_FIRST,
        maximum=COMMAND_WRITER_FIRST - 1,
    )
    devices_dir: Path = setting(
        Path("devices"), "Where this machine's devices are, to be read directly. One that is not there is asked for."
    )
    s3_region: str = setting("us-east-1", "The region that S3 signatures must name.")
    s3_domains: tuple[str, ...] = setting(
        ("localhost",),
        'Domains under which buckets are host names: "s3.example.com" makes BUCKET.s3.example.com work.',
    )
    connections_max: int = setting(8192, "HTTP connections at a time; more wait to be accepted.", minimum=1)
    idle_timeout_s: float = setting(
        60.0, "A connection that is silent for this long is closed. Seconds.", minimum=1.0, maximum=3600.0
    )
    access_log: bool = setting(False, "Log a line for every request. Failures of ours are logged in any case.")


@dataclass(frozen=True, kw_only=True)
class DaemonsConfig(ServiceConfig):
    """The background work of one node: replicator, auditor, updater and the others, in one process."""

    service: ClassVar[str] = "daemons"

    writer: int = setting(
        BACKGROUND_WRITER_FIRST,
        "This process's number in the cluster. Two processes that write must never share one.",
        minimum=1,
        maximum=COMMAND_WRITER_FIRST - 1,
    )
    devices_dir: Path = setting(Path("devices"), "Where this machine's devices are.")
    state_file: Path = setting(
        Path("daemons.json"),
        "Where it is kept what `ringstead daemon` has paused and how fast it lets things go. That outranks the rates here.",
    )
    metrics_listen: str = setting(
        "",
        "IP:PORT to show this node's metrics at, for a machine without a proxy. Empty: its proxies show them at /metrics.",
    )
    replicator_interval_s: float = setting(
        10.0, "How often all replicas are compared. Seconds.", minimum=0.1, maximum=86400.0
    )
    replicator_bytes_per_s: float = setting(
        256.0 * 1024**2, "What replication copies to all devices together. Bytes a second.", minimum=1.0
    )
    replicator_device_bytes_per_s: float = setting(
        128.0 * 1024**2, "What replication copies to one device. Bytes a second.", minimum=1.0
    )
    replicator_move_s: float = setting(
        30.0,
        "How long after every node has a newer ring all processes are taken to follow it; the old one stays in force so "
        "long at least. Seconds.",
        minimum=0.0,
        maximum=86400.0,
    )
    auditor_interval_s: float = setting(7 * 86400.0, "How often everything on a device is read. Seconds.", minimum=1.0)
    auditor_bytes_per_s: float = setting(
        32.0 * 1024**2, "What the auditor reads from all devices of this node together. Bytes a second.", minimum=1.0
    )
    auditor_entries_per_s: float = setting(
        2_000.0, "How many objects and rows the auditor looks at in a second, over all devices.", minimum=0.1
    )
    updater_interval_s: float = setting(
        1.0, "How often the containers of each device are looked over. Seconds.", minimum=0.05, maximum=3600.0
    )
    updater_containers_per_s: float = setting(
        10_000.0, "How many containers the updater compares in a second, over all devices.", minimum=1.0
    )
    updater_updates_per_s: float = setting(
        1_000.0, "How many account rows the updater writes in a second.", minimum=0.1
    )
    reclaimer_interval_s: float = setting(3600.0, "How often tombstones are looked over. Seconds.", minimum=1.0)
    reclaimer_age_s: float = setting(
        14 * 86400.0,
        "How old a tombstone must be before it is removed (and then only once every device has confirmed it). More than "
        "auditor_interval_s, so that an audit has held it against the listing. Seconds.",
        minimum=0.0,
    )
    reclaimer_entries_per_s: float = setting(
        5_000.0, "How many entries and rows the reclaimer looks at in a second.", minimum=0.1
    )
    expirer_interval_s: float = setting(
        5.0,
        "How often it is looked for objects whose time is over: so long after it at most they are deleted. Seconds.",
        minimum=0.1,
        maximum=3600.0,
    )
    expirer_objects_per_s: float = setting(200.0, "How many expired objects are deleted in a second.", minimum=0.1)
    reaper_delay_s: float = setting(
        86400.0,
        "How long after an account's deletion what it held begins to be removed. Seconds.",
        minimum=10.0,
    )
    reaper_interval_s: float = setting(30.0, "How often it is looked for deleted accounts. Seconds.", minimum=0.1)
    reaper_objects_per_s: float = setting(
        100.0, "How many objects of deleted accounts are removed in a second.", minimum=0.1
    )


def _multiplier(default: float, value: str) -> float:
    """The setting of a weigher of placement; `scheduler.placement.settings` says what each is."""
    return setting(default, f"Where servers go: weight of {value}.", minimum=-1_000_000.0, maximum=1_000_000.0)


@dataclass(frozen=True, kw_only=True)
class ControllerConfig(ServiceConfig):
    """Looks after servers and volumes in Xen pools. Several may share a database, each with a name of its own."""

    service: ClassVar[str] = "controller"

    database: str = setting(
        "",
        "Where servers, volumes and work are recorded: postgresql+psycopg://USER@HOST/NAME where several controllers run. "
        "Empty: SQLite, in `data_dir`.",
    )
    data_dir: Path = setting(Path("scheduler"), "Where the SQLite file is, readable by its owner only.")
    devices_dir: Path = setting(Path("devices"), "Where this machine's devices are: images are read from the store.")
    writer: int = setting(
        CONTROLLER_WRITER,
        "This process's number in the cluster. Two processes that write must never share one.",
        minimum=1,
        maximum=COMMAND_WRITER_FIRST - 1,
    )
    lease_s: float = setting(
        20.0,
        "For how long a controller holds a piece of work without news; so long a dead one's work waits. Seconds.",
        minimum=1.0,
        maximum=3600.0,
    )
    look_s: float = setting(2.0, "How often the pools are looked at. Seconds.", minimum=0.1, maximum=3600.0)
    vcpu_ratio: float = setting(
        4.0,
        "How many vCPUs a host gives out for each of its processors. The same for all controllers of a database.",
        minimum=0.1,
        maximum=64.0,
    )
    placement_spread: float = _multiplier(
        1.0, "the share of a host that is free: positive spreads servers over hosts, negative packs them"
    )
    placement_ring: float = _multiplier(1.0, "how early a host comes in the ring's walk for the server")
    placement_image: float = _multiplier(0.25, "whether a host reaches storage that has the image")
    placement_volume: float = _multiplier(0.5, "the share of the server's volumes that a host reaches")
    placement_failure: float = _multiplier(1.0, "builds that failed on a host of late; taken off")
    placement_soft_affinity: float = _multiplier(
        2.0, "the share of the group that is on a host; taken off for soft anti-affinity"
    )
    placement_choice_count: int = setting(
        4,
        "The best so many hosts are drawn from, so that controllers at work together seldom collide.",
        minimum=1,
        maximum=16,
    )
    placement_choice_margin: float = setting(
        0.03, "But only hosts whose score is less than this below the best.", minimum=0.0, maximum=1_000_000.0
    )
    topology_file: Path | None = setting(
        None,
        'The builder\'s topology file, where hosts and SRs are entered as they are found. "": not here, such as on all '
        "controllers but one.",
    )
    simulator: str = setting(
        "", "URL of `ringstead xensim` whose pools are added at the first start, one a zone. Empty: none."
    )


CONFIG_CLASSES: dict[str, type[ServiceConfig]] = {
    config_class.service: config_class for config_class in (ControllerConfig, DaemonsConfig, ProxyConfig, StorageConfig)
}


def config_class_of(service: str) -> type[ServiceConfig]:
    """The class that holds a service's settings."""
    try:
        return CONFIG_CLASSES[service]
    except KeyError:
        raise ConfigError(f"there is no service {service!r}; there are {', '.join(sorted(CONFIG_CLASSES))}") from None
