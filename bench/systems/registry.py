"""Every system that the harness knows, by name.

Ringstead, Swift and Ceph's gateway speak Swift's dialect and S3; MinIO, Garage and SeaweedFS speak S3 alone. All are
verified in each dialect before they are measured.
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
