"""SeaweedFS, where `weed` is on the path: a master, three volume servers, a filer with its S3 gateway, replication 002.

002 means two more copies on other servers of the same rack; volume servers sync each write (`-fsync` is per write there).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

from bench.systems.base import S3Access, System, free_port, program

ACCESS_KEY, SECRET_KEY = "benchkey", "benchsecret"
VOLUME_SERVERS: Final = 3


class Seaweedfs(System):
    """SeaweedFS."""

    name = "seaweedfs"
    answers_when = "3 of 3 volume servers have it (not synced: SeaweedFS syncs per request or per bucket only)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = program("weed")

    @property
    def version(self) -> str:
        """As it says."""
        words = subprocess.run([self._program, "version"], capture_output=True, text=True, check=True).stdout.split()
        return words[2] if len(words) > 2 else "unknown"

    def start(self) -> None:
        """See System."""
        master, filer = free_port(), free_port()
        folders = [self.folder / name for name in ("master", *(f"volume{n}" for n in range(VOLUME_SERVERS)))]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        identity = {
            "name": "bench",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        here = ["-ip", "127.0.0.1"]
        address = f"127.0.0.1:{master}"
        replication = ["-defaultReplication", "002", "-volumeSizeLimitMB", "1024"]
        self.spawn(
            [self._program, "master", *here, "-port", str(master), "-mdir", str(folders[0]), *replication], "master"
        )
        for number, folder in enumerate(folders[1:]):
            where = ["-port", str(free_port()), "-dir", str(folder), "-mserver", address, "-max", "100"]
            self.spawn([self._program, "volume", *here, *where], f"volume-{number}")
        gateway = ["-s3", "-s3.port", str(self.port), "-s3.config", str(config)]
        self.spawn([self._program, "filer", *here, "-port", str(filer), "-master", address, *gateway], "filer")
        self.wait_http("/", (200, 403))
        self.s3 = S3Access(ACCESS_KEY, SECRET_KEY)
