"""The builder's files, opened by whoever runs this; of a one-machine cluster made when they are first wanted.

The builder (`ringstead ring`) works on a topology file that its operator keeps. A one-machine cluster is made without one:
it gets its file, in its folder, from the ring in force, once something is to be changed.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from pathlib import Path
from typing import Final

from ring.builder_files import BuilderFiles, design_of
from ringstead.one_machine.layout import DataDirectory
from ringstead.rings.in_force import load_generations

TOPOLOGY_NAME: Final = "ring.toml"
RING_VARIABLE: Final = "RINGSTEAD_RING"
"""Names the topology file to commands that are not told."""


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
