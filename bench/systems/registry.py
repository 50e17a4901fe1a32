"""Every system that the harness knows, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.systems.base import System
from bench.systems.ceph import Ceph
from bench.systems.ringstead import Ringstead
from bench.systems.swift import Swift

SYSTEMS: Final[dict[str, Callable[[Path], System]]] = {"ringstead": Ringstead, "swift": Swift, "ceph-rgw": Ceph}
