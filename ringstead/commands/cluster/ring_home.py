"""Where the builder's files of a cluster are, and where the ring is that its nodes follow.

Problem: the builder (`ringstead ring`) works on a topology file that its operator keeps; nodes follow the ring file that is
named in their settings. Commands that bring the one into force at the other must know both, on one machine without being
told.

Idea: a one-machine cluster keeps the builder's files in its folder (`one_machine/builder.py`). Of a cluster of several
machines the topology file is named, as for `ringstead ring`, and the ring file is that of a proxy's settings.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ring.builder_files import BuilderFiles
from ring.generations import Generations
from ringstead.errors import UsageError
from ringstead.one_machine.builder import RING_VARIABLE, TOPOLOGY_NAME, builder_files, ensure_builder
from ringstead.one_machine.layout import DataDirectory
from ringstead.rings.in_force import load_generations
from ringstead.settings.config import ProxyConfig


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
    from ringstead.commands.access import Target

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
