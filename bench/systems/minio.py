"""MinIO, where `minio` is on the path: one server over four drives (folders) in one erasure set.

Its default parity for four drives is EC:2: two data and two parity shards of each object, so that what was written can be
read without any two of the drives, as with three replicas, at twice the size instead of three times. One server, not four
that talk to each other: that is how MinIO is run on one machine, and it is the quicker. There is no node to kill, then.

Each drive's part is written with O_DIRECT and fdatasync, or with O_DSYNC where it is small: MinIO's only way.
The renames that make it visible are not synced, by default; MINIO_FS_OSYNC would sync the whole machine for each
request, which nobody runs. Compression is off, as by default. The folders lie on one file system, which it only accepts
when told that this is a test (MINIO_CI_CD); update checks are off.
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
    answers_when = "4 of 4 drives (2 data, 2 parity: EC:2; 3 suffice where one fails) have their fdatasynced part"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = program("minio")

    @property
    def version(self) -> str:
        """As it says."""
        return version_in(
            subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True).stdout
        )

    def start(self) -> None:
        """See System."""
        drives = [self.folder / f"drive{number}" for number in range(1, DRIVES + 1)]
        for drive in drives:
            drive.mkdir(exist_ok=True)
        environment = {
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_STORAGE_CLASS_STANDARD": "EC:2",
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CI_CD": "1",
        }
        addresses = ["--address", f"127.0.0.1:{self.port}", "--console-address", f"127.0.0.1:{free_port()}"]
        self.spawn([self._program, "server", *addresses, *map(str, drives)], "minio", environment)
        self.wait_http("/minio/health/ready")
        self.s3 = S3Access(ACCESS_KEY, SECRET_KEY)


def version_in(said: str) -> str:
    """Of what `minio --version` prints: "minio version RELEASE.… (commit-id=…)"."""
    return said.split()[2]
