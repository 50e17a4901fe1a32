"""A real PostgreSQL of Debian's package, in a temporary folder, for as long as a test session.

It listens on a Unix socket alone. Where the tests run as root it belongs to another user, since PostgreSQL refuses root.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

START_TIMEOUT_S = 60.0
_USER = "ringstead"


@dataclass
class PostgresServer:
    """A server that runs; `new_url` makes an empty database in it."""

    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://{_USER}@/{database}?host={self.folder}"

    def new_url(self) -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self.numbers)}"
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
        return self.url(name)

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            with create_engine(self.url("postgres"), poolclass=NullPool).connect():
                return True
        except OperationalError:
            return False


def find_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`, the newest version; None if it is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    usable = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    return usable[-1] if usable else None


@contextmanager
def run_postgresql() -> Iterator[PostgresServer]:
    """A server for the duration of the block; skips the test where Debian's package is not installed."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="ringstead-postgresql-"))
    options = {}
    if os.geteuid() == 0:
        owner = _unprivileged()
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        options = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    log = (folder / "log").open("wb")
    try:
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", _USER, "--auth=trust", "--no-sync", "-E", "UTF8"],
            check=True, stdout=log, stderr=log, cwd=folder, **options,
        )  # fmt: skip
        process = subprocess.Popen(
            [binaries / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
            stdout=log, stderr=log, cwd=folder, **options,
        )  # fmt: skip
        try:
            server = PostgresServer(folder)
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while not server.answers():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
                    pytest.fail("PostgreSQL ended: " + (folder / "log").read_text())
                assert time.monotonic() < deadline_s, (folder / "log").read_text()
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # "fast": ends open connections
            process.wait(START_TIMEOUT_S)
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    """The user that the server runs as: the package's own, else nobody."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("there is neither a user postgres nor nobody, and PostgreSQL refuses root")
