"""The database that the scheduler keeps its state in, opened so that a transaction means the same in SQLite and PostgreSQL.

SQLite as Python opens it begins a transaction late and as a reader; two writers that both read first then fail each
other whatever they do. Here every transaction takes the write lock when it begins and waits for it for a while, so
SQLite runs them one after the other. The journal is a write-ahead log, synced at every commit: what was acknowledged
survives a power cut.

On PostgreSQL transactions run side by side. An engine as `open_engine` makes it leaves them READ COMMITTED: code must
lock or compare what it decides by. Claims take `with_snapshots` of it, REPEATABLE READ, and begin anew where a row
changed under them.
"""

from __future__ import annotations

import threading
import time
from sqlite3 import SQLITE_BUSY, OperationalError
from sqlite3 import Connection as SqliteConnection
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url

LOCK_TIMEOUT_S = 30.0
"""How long a transaction waits for SQLite's write lock before it gives up."""
LOCK_LOOK_S = 0.01
"""Between two attempts where SQLite does not wait by itself."""


def open_engine(url: str) -> Engine:
    """An engine for `sqlite:///PATH` or `postgresql+psycopg://…`. Threads may share it; it connects at first use."""
    if make_url(url).get_backend_name() == "sqlite":
        return _open_sqlite(url)
    return create_engine(url, pool_pre_ping=True)


def with_snapshots(engine: Engine) -> Engine:
    """The same engine, whose transactions see one moment throughout: REPEATABLE READ in PostgreSQL, as they are in SQLite.

    In PostgreSQL a write to a row that changed since the transaction's first read fails with SQLSTATE 40001: begin anew.
    """
    if engine.dialect.name != "postgresql":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def _open_sqlite(url: str) -> Engine:
    # `isolation_level` None: the driver begins nothing by itself.
    engine = create_engine(url, connect_args={"isolation_level": None, "timeout": LOCK_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: SqliteConnection, _: Any) -> None:
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _use_write_ahead_log(connection: SqliteConnection) -> None:
    """Switch the journal, waiting for others: this is the one statement that SQLite refuses at once where it has to wait."""
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            if error.sqlite_errorcode != SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
        threading.Event().wait(LOCK_LOOK_S)
