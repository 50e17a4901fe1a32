"""Every system that the harness knows, by name.

Ringstead, Swift and Ceph's gateway have been run by it. MinIO, Garage and SeaweedFS are set up as their documentation says
and have not been run, for want of their programs; like all others they are verified before they are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.systems.base import System
from bench.systems.ceph import Ceph
from bench.systems.garage import Garage
from bench.systems.minio import Minio
from bench.systems.ringstead import Ringstead
from bench.systems.seaweedfs import Seaweedfs
from bench.systems.swift import Swift

SYSTEMS: Final[dict[str, Callable[[Path], System]]] = {
    "ringstead": Ringstead,
    "swift": Swift,
    "ceph-rgw": Ceph,
    "minio": Minio,
    "garage": Garage,
    "seaweedfs": Seaweedfs,
}
