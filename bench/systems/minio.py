"""MinIO, where `minio` is on the path: one server over four drives (folders), erasure-coded as it chooses by default (EC:2).

Its folders lie on one file system, which it only accepts when told that this is a test (MINIO_CI_CD).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from bench.systems.base import S3Access, System, free_port, program

ACCESS_KEY, SECRET_KEY = "bench", "bench-secret-key"
DRIVES: Final = 4


class Minio(System):
    """MinIO."""

    name = "minio"
    answers_when = "a write quorum of 3 of 4 drives (2 data, 2 parity) has its part, synced as MinIO does by default"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = program("minio")

    @property
    def version(self) -> str:
        """As it says."""
        return subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True).stdout.split()[
            2
        ]

    def start(self) -> None:
        """See System."""
        drives = [self.folder / f"drive{number}" for number in range(1, DRIVES + 1)]
        for drive in drives:
            drive.mkdir(exist_ok=True)
        environment = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_CI_CD": "1"}
        addresses = ["--address", f"127.0.0.1:{self.port}", "--console-address", f"127.0.0.1:{free_port()}"]
        self.spawn([self._program, "server", *addresses, *map(str, drives)], "minio", environment)
        self.wait_http("/minio/health/ready")
        self.s3 = S3Access(ACCESS_KEY, SECRET_KEY)
