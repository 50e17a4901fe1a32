"""The data directory of a one-machine cluster: what is in it, how it is made, what a later start may change.

    cluster.toml      what `up` was asked for when it made the directory
    cluster.key       the secret of this cluster (0600)
    cluster.ring      the ring: every device with its address
    config/NAME.toml  the settings of each service, made once and then the operator's to edit
    daemons.json      what the operator told the daemons: pauses and rates
    scheduler/        records of servers and volumes (SQLite, 0700)
    xensim/           the simulated Xen pools
    devices/NAME/     the devices
    run/              sockets, the supervisor's lock
    logs/NAME.log     JSON lines
    credentials.env   the first user's keys for S3 and Swift clients (0600)

Problem: a second `up` must carry on with the first one's data, and a start that dies half-way must not leave a directory
that nothing can use.

Idea: cluster.toml is written last, by rename. A directory without it holds no data yet, so the making begins again. Zones
and devices are properties of the data: a later start may ask for more of them (growth.py), not for fewer; port, host and
workers are properties of the processes and follow what is asked.

Invariant: nothing in `devices/` is ever made, moved or removed here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringstead.errors import ConfigError, RingsteadError, UsageError
from ringstead.processes.sockets import free_port_range
from ringstead.settings.cluster_key import make_cluster_key, write_private
from ringstead.settings.config import (
    BACKGROUND_WRITER_FIRST,
    PROXY_WRITER_FIRST,
    PROXY_WRITER_LAST,
    ControllerConfig,
    DaemonsConfig,
    ProxyConfig,
    ServiceConfig,
    StorageConfig,
)
from ringstead.settings.config_file import literal, load, render

FORMAT_VERSION: Final = 1
NODE: Final = "127.0.0.1"
PART_POWER: Final = 12
"""4,096 partitions: fine-grained for up to a hundred devices, and a ring file of 20 KiB."""
REPLICAS_MAX: Final = 3
DEVICE_WEIGHT: Final = 100.0
ZONES_MAX: Final = 64
DEVICES_PER_ZONE_MAX: Final = 64
WORKERS_MAX: Final = 64
XEN_PORT_OFFSET: Final = 7000
"""Where the search for the simulator's port begins, so that clusters on one machine rarely meet."""
XEN_HOSTS: Final = 3
"""Of each simulated pool."""
_OURS: Final = frozenset(
    {
        "cluster.key",
        "cluster.ring",
        "cluster.ring.moving",
        "config",
        "devices",
        "run",
        "logs",
        "lost+found",
        "scheduler",
        "xensim",
    }
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What `up` can be asked for."""

    host: str = "127.0.0.1"
    port: int = 8080
    zones: int = 3
    devices_per_zone: int = 2
    workers: int = 2
    xen: bool = True
    """With a controller and simulated Xen pools, one a zone."""
    xen_port: int = 0
    """Port of the simulated hosts, each at an address of its own; 0: not chosen yet."""

    def __post_init__(self) -> None:
        for name, most in (
            ("port", 65535),
            ("zones", ZONES_MAX),
            ("devices_per_zone", DEVICES_PER_ZONE_MAX),
            ("workers", min(WORKERS_MAX, PROXY_WRITER_LAST)),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise UsageError(f"{name.replace('_', '-')} {getattr(self, name)} is outside 1..{most}")
        if not 0 <= self.xen_port <= 65535:
            raise UsageError(f"xen-port {self.xen_port} is outside 1..65535")

    @property
    def replicas(self) -> int:
        """How many copies of everything there are."""
        return min(REPLICAS_MAX, self.zones * self.devices_per_zone)


@dataclass(frozen=True)
class DevicePlace:
    """One device of the one-machine cluster."""

    zone: int
    name: str
    port: int


@dataclass(frozen=True)
class DataDirectory:
    """The paths of a data directory, and what it was made with."""

    path: Path

    @property
    def shape_file(self) -> Path:
        """What `up` was asked for; the directory is complete once it is there."""
        return self.path / "cluster.toml"

    @property
    def key_file(self) -> Path:
        """The cluster key."""
        return self.path / "cluster.key"

    @property
    def ring_file(self) -> Path:
        """The ring."""
        return self.path / "cluster.ring"

    @property
    def config_dir(self) -> Path:
        """Settings of the services."""
        return self.path / "config"

    @property
    def devices_dir(self) -> Path:
        """Devices."""
        return self.path / "devices"

    @property
    def run_dir(self) -> Path:
        """Sockets and lock."""
        return self.path / "run"

    @property
    def logs_dir(self) -> Path:
        """Logs."""
        return self.path / "logs"

    @property
    def credentials_file(self) -> Path:
        """The first user's keys, as shell lines."""
        return self.path / "credentials.env"

    @property
    def exists(self) -> bool:
        """Whether a cluster was made here."""
        return self.shape_file.exists()

    def config_file(self, name: str) -> Path:
        """The settings of the service of that name."""
        return self.config_dir / f"{name}.toml"


def open_directory(directory: DataDirectory, asked: dict[str, Any]) -> tuple[Shape, list[str]]:
    """Make the data directory, or read what it was made with; -> its shape, and what to tell the operator.

    `asked` holds the options that were given. Raises RingsteadError where the directory is something else.
    """
    if not directory.exists:
        shape = with_xen_port(Shape(**asked))
        _make(directory, shape)
        return shape, []
    made = load_shape(directory)
    shape, notes = reconcile(made, asked)
    shape = with_xen_port(shape)
    if shape != made:
        write_private(directory.shape_file, _render_shape(shape))
    _write_configs(directory, shape, None)
    return shape, notes


def reconcile(made: Shape, asked: dict[str, Any]) -> tuple[Shape, list[str]]:
    """What a start with these options runs, on a directory that was made like this; and what to say about it."""
    notes: list[str] = []
    follow: dict[str, Any] = {}
    for name, value in asked.items():
        was = getattr(made, name)
        if value == was:
            continue
        option = name.replace("_", "-")
        if name in ("zones", "devices_per_zone") and value < was:
            notes.append(
                f"--{option} {value} is not done: this cluster has {was}, and its data lies accordingly; to empty what "
                "is too much: `ringstead ring drain`, then `ringstead rebalance start`."
            )
        else:
            notes.append(f"--{option} is {value} from now on (it was {was}).")
            follow[name] = value
    return dataclasses.replace(made, **follow), notes


def with_xen_port(shape: Shape) -> Shape:
    """The shape with a port for the simulated hosts, if it has them and none was chosen."""
    if not shape.xen or shape.xen_port:
        return shape
    return dataclasses.replace(shape, xen_port=free_port_range(NODE, shape.port + XEN_PORT_OFFSET, 1))


def load_shape(directory: DataDirectory) -> Shape:
    """What the directory was made with. Raises RingsteadError."""
    path = directory.shape_file
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RingsteadError(
            f"{directory.path} holds no cluster; `ringstead up --data {directory.path}` makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    version = document.pop("version", None)
    if version != FORMAT_VERSION:
        raise ConfigError(f"{path}: written by another version of Ringstead (format {version!r}, not {FORMAT_VERSION})")
    fields = {field.name: type(field.default) for field in dataclasses.fields(Shape)}
    for name, value in document.items():
        if fields.get(name) is not type(value):
            raise ConfigError(f"{path}: {name} = {value!r} makes no sense")
    return Shape(**document)


def device_names(shape: Shape) -> list[tuple[int, str]]:
    """Zone and name of each device, in the order of their ids."""
    return [
        (zone, f"z{zone}d{number}")
        for zone in range(1, shape.zones + 1)
        for number in range(1, shape.devices_per_zone + 1)
    ]


def service_names(shape: Shape) -> dict[str, list[str]]:
    """The services that run, by kind, in the order in which they start."""
    return {
        "storage": [f"storage-{name}" for _, name in device_names(shape)],
        "daemons": ["daemons"],
        "proxy": [f"proxy-{number}" for number in range(1, shape.workers + 1)],
        **({"xensim": ["xensim"], "controller": ["controller"]} if shape.xen else {}),
    }


def _make(directory: DataDirectory, shape: Shape) -> None:
    try:
        directory.path.mkdir(parents=True, exist_ok=True, mode=0o750)
        present = {entry.name for entry in directory.path.iterdir() if not entry.name.startswith(".")}
    except OSError as error:
        raise RingsteadError(f"{directory.path}: {error.strerror}") from error
    devices = directory.devices_dir
    if present - _OURS or (devices.exists() and any(devices.iterdir())):
        raise RingsteadError(f"{directory.path} is not empty and holds no cluster; choose another --data")
    for folder, mode in (
        (directory.run_dir, 0o700),
        (directory.logs_dir, 0o750),
        (directory.config_dir, 0o750),
        (devices, 0o750),
    ):
        folder.mkdir(exist_ok=True, mode=mode)
    base_port = free_port_range(NODE, shape.port, shape.zones * shape.devices_per_zone)
    places = [DevicePlace(zone, name, base_port + i) for i, (zone, name) in enumerate(device_names(shape))]
    make_cluster_key(directory.key_file)
    _write_ring(directory, shape, places)
    for stale in directory.config_dir.glob("*.toml"):
        stale.unlink()
    _write_configs(directory, shape, places)
    write_private(directory.shape_file, _render_shape(shape))


def _write_ring(directory: DataDirectory, shape: Shape, places: list[DevicePlace]) -> None:
    from ring import ring_file
    from ring.builder import build_ring
    from ring.topology import Device

    devices = [
        Device(index, 1, place.zone, NODE, place.port, place.name, DEVICE_WEIGHT) for index, place in enumerate(places)
    ]
    ring = build_ring(devices, PART_POWER, shape.replicas, secrets.randbits(63))
    ring_file.save(directory.ring_file, ring)


def _write_configs(directory: DataDirectory, shape: Shape, places: list[DevicePlace] | None) -> None:
    """Make the files that are missing, and bring host and port into the proxies'. `places` is given for a new cluster."""
    common = _common(directory)
    for place in places or ():
        write_storage_config(directory, place)
    names = service_names(shape)
    for name in names["daemons"]:
        if not directory.config_file(name).exists():
            _write_config(
                directory,
                DaemonsConfig(
                    **common(name), devices_dir=directory.devices_dir, state_file=directory.path / "daemons.json"
                ),
            )
    _write_controller(directory, shape, common)
    for index, name in enumerate(names["proxy"]):
        path = directory.config_file(name)
        if path.exists():
            present = load(ProxyConfig, path)
            if (present.listen, present.port) != (shape.host, shape.port):
                _write_config(directory, dataclasses.replace(present, listen=shape.host, port=shape.port))
        else:
            proxy = ProxyConfig(
                **common(name),
                devices_dir=directory.devices_dir,
                listen=shape.host,
                port=shape.port,
                writer=PROXY_WRITER_FIRST + index,
            )
            _write_config(directory, proxy)


def _write_controller(directory: DataDirectory, shape: Shape, common: Any) -> None:
    """The controller's file, where there is to be a controller; its simulator is where the shape has it."""
    path = directory.config_file("controller")
    url = f"http://{NODE}:{shape.xen_port}" if shape.xen else ""
    if path.exists():
        present = load(ControllerConfig, path)
        if shape.xen and present.simulator not in ("", url):
            _write_config(directory, dataclasses.replace(present, simulator=url))
    elif shape.xen:
        _write_config(
            directory,
            ControllerConfig(
                **common("controller"),
                data_dir=directory.path / "scheduler",
                devices_dir=directory.devices_dir,
                topology_file=directory.path / "ring.toml",
                simulator=url,
            ),
        )


def write_storage_config(directory: DataDirectory, place: DevicePlace, config: StorageConfig | None = None) -> None:
    """Write the settings of a device's service: `config`, or new ones."""
    name = f"storage-{place.name}"
    _write_config(
        directory,
        config
        or StorageConfig(
            **_common(directory)(name),
            devices_dir=directory.devices_dir,
            devices=(place.name,),
            listen=f"{NODE}:{place.port}",
        ),
    )


def _common(directory: DataDirectory) -> Any:
    def common(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "ring_file": directory.ring_file,
            "cluster_key_file": directory.key_file,
            "node": NODE,
            "socket_dir": directory.run_dir,
            "log_file": directory.logs_dir / f"{name}.log",
        }

    return common


def _write_config(directory: DataDirectory, config: ServiceConfig) -> None:
    write_private(
        directory.config_file(config.name), render(config, base=directory.config_dir.absolute(), defaults=False)
    )


def _render_shape(shape: Shape) -> str:
    lines = [
        "# What this cluster was made with. `ringstead up` reads it; nothing else does.",
        f"version = {FORMAT_VERSION}",
    ]
    lines += [f"{field.name} = {literal(getattr(shape, field.name))}" for field in dataclasses.fields(Shape)]
    return "\n".join(lines) + "\n"


def remove_stale_sockets(directory: DataDirectory) -> None:
    """Sockets of processes that died; called with the supervisor's lock held."""
    for pattern in ("*.sock", "*.control"):
        for path in directory.run_dir.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


assert BACKGROUND_WRITER_FIRST > PROXY_WRITER_FIRST + WORKERS_MAX
