"""Where the builder's files of a cluster are, and where the ring is that its nodes follow.

Problem: the builder (`ringstead ring`) works on a topology file that its operator keeps; nodes follow the ring file that is
named in their settings. Commands that bring the one into force at the other must know both, on one machine without being
told.

Idea: a one-machine cluster keeps the builder's files in its folder (`ring.toml` and what belongs to it), made from its ring
when they are first wanted. Of a cluster of several machines the topology file is named, as for `ringstead ring`, and the
ring file is that of a proxy's settings.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from ring.builder_files import BuilderFiles
from ring.generations import Generations
from ringstead.config import ProxyConfig
from ringstead.errors import UsageError
from ringstead.layout import DataDirectory
from ringstead.ring_swift_commands import design_of
from ringstead.services import load_generations

TOPOLOGY_NAME = "ring.toml"
RING_VARIABLE = "RINGSTEAD_RING"


@dataclass(frozen=True)
class RingHome:
    """The two sides of a cluster's ring."""

    files: BuilderFiles
    """The builder's."""
    settings: ProxyConfig
    """Of a proxy: its ring file is what this machine follows."""
    directory: DataDirectory | None
    """Of a one-machine cluster."""

    def generations(self) -> Generations:
        """The rings in force here. Raises ConfigError."""
        return load_generations(self.settings.ring_file)


def open_home(data: Path, config: Path | None, file: Path | None) -> RingHome:
    """The ring of the cluster in `data`, or of that whose proxy has its settings in `config`. Raises RingsteadError."""
    from ringstead.access import Target

    settings = Target(data, config).settings()
    if config is not None:
        named = file or (Path(os.environ[RING_VARIABLE]) if RING_VARIABLE in os.environ else None)
        path = named or Path(TOPOLOGY_NAME)
        if named is None and not path.exists():
            raise UsageError("with --config name the topology file too: --file ring.toml")
        return RingHome(builder_files(path.absolute()), settings, None)
    directory = DataDirectory(data.absolute())
    path = file.absolute() if file is not None else ensure_builder(directory)
    return RingHome(builder_files(path), settings, directory)


def builder_files(path: Path) -> BuilderFiles:
    """The builder's files at a path, changed by whoever runs this."""
    return BuilderFiles(path, now_s=time.time, who=who())


def who() -> str:
    """User and machine, for the history of a ring."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def ensure_builder(directory: DataDirectory) -> Path:
    """The topology file of a one-machine cluster, made from the ring in force if there is none. Raises RingsteadError."""
    path = directory.path / TOPOLOGY_NAME
    if not path.exists():
        ring = load_generations(directory.ring_file).newest
        design, memory = design_of(ring, 0)  # one machine need not let partitions rest
        builder_files(path).create(design, "made from the ring in force", memory)
    return path
