"""The schema brought up to date, whoever opens the database first and from whatever version.

The migrations are part of the package (`scheduler/migrations`) and run when a controller starts, in one transaction, one
controller at a time: SQLite's write lock keeps others out, on PostgreSQL an advisory lock does. A database written by a
later version of Ringstead is refused rather than guessed at.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from scheduler.database import open_engine
from scheduler.errors import SchedulerError

ADVISORY_LOCK: Final = 0x52494E47
"""`RING`: the number of the lock that migrations hold on PostgreSQL."""


class DatabaseUnusable(SchedulerError):
    """The operator's: the database cannot be opened, or was written by a later version."""


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


def open_database(url: str) -> Engine:
    """An engine on a database with the present schema; a SQLite file is made, readable by its owner only."""
    from alembic.util.exc import CommandError

    prefix = "sqlite:///"
    if url.startswith(prefix) and len(url) > len(prefix):
        path = Path(url.removeprefix(prefix))
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise DatabaseUnusable(f"{path}: {error.strerror}") from error
    try:
        engine = open_engine(url)
        with engine.begin() as connection:
            migrate(connection)
    except DBAPIError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        raise DatabaseUnusable(f"the scheduler's database cannot be used: {reason}") from error
    except CommandError as error:
        raise DatabaseUnusable(f"the scheduler's database is of another version of Ringstead: {error}") from error
    return engine


def migrate(connection: Connection) -> None:
    """Bring the schema to the present version, in the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": ADVISORY_LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).resolve().parent.parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
