"""Ringstead, as `ringstead up` starts it: three zones, a device each, two proxy workers, fsync on."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from bench.systems.base import POLL_S, READY_TIMEOUT_S, S3Access, System, SystemFailed, swift_token, wait_s
from ringstead.processes.control import ask, control_path


class Ringstead(System):
    """A cluster of ours."""

    name = "ringstead"
    answers_when = "2 of 3 replicas and 2 of 3 listing rows are fdatasynced"

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.data = folder / "data"
        self.options = options or ("--devices-per-zone", "1", "--workers", "2")

    @property
    def version(self) -> str:
        """Of the package."""
        from importlib.metadata import version

        return version("ringstead")

    def start(self) -> None:
        """See System."""
        command = [
            sys.executable,
            "-m",
            "ringstead",
            "up",
            "--data",
            str(self.data),
            "--port",
            str(self.port),
            "--no-xen",
        ]
        self.spawn([*command, *self.options], "up", {"PYTHONPATH": str(Path(__file__).resolve().parents[2])})
        self.wait_http("/healthcheck")
        credentials = self._credentials()
        self.swift = swift_token(credentials["ST_AUTH"], credentials["ST_USER"], credentials["ST_KEY"])
        self.s3 = S3Access(credentials["AWS_ACCESS_KEY_ID"], credentials["AWS_SECRET_ACCESS_KEY"])

    def _credentials(self) -> dict[str, str]:
        path = self.data / "credentials.env"
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not path.exists():
            if time.monotonic() > deadline_s:
                raise SystemFailed(f"no {path}")
            wait_s(POLL_S)
        exports = (line.removeprefix("export ") for line in path.read_text().splitlines() if line.startswith("export "))
        return {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in exports)}

    def kill_node(self) -> None:
        """One storage process, held down by the supervisor."""
        self._ask("hold", name=self._storage_name(), signal="SIGKILL")

    def revive_node(self) -> None:
        """See System."""
        self._ask("release", name=self._storage_name())
        self._ask("wait", within_s=55.0)

    def begin_rebalance(self) -> None:
        """A fourth zone joins; data moves as fast as the daemons' rates allow."""
        command = [sys.executable, "-m", "ringstead", "rebalance", "grow", "--zones", "4", "--data", str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemFailed(f"{' '.join(command)}: {done.stderr}")

    def put_names(self, container: str, count: int) -> None:
        """Rows written into the devices while the cluster is down (see offline.py)."""
        from bench.systems.offline import write_rows

        assert self.swift is not None
        self.stop()
        write_rows(self.data, self.swift.account_path.rpartition("/")[2], container, count)
        self.start()

    def _storage_name(self) -> str:
        services = self._ask("status")["services"]
        return str(next(service["name"] for service in services if service["kind"] == "storage"))

    def _ask(self, operation: str, **arguments: object) -> dict[str, list[dict[str, object]]]:
        return ask(control_path(self.data / "run", "supervisor"), operation, timeout_s=60.0, **arguments)
