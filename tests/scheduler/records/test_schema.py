"""The schema: what the migrations make is what the code says, whatever the database."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text

import scheduler.claims.tables
import scheduler.records.tables  # noqa: F401 (tables register themselves)
from scheduler.metadata import METADATA
from scheduler.records.schema import DatabaseUnusable, open_database, sqlite_url


def test_migrations_make_what_the_code_says(engine: Engine) -> None:
    """After all migrations Alembic finds no difference between the database and the tables in the code."""
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_opening_again_changes_nothing(engine: Engine) -> None:
    """A database that is up to date stays as it is."""
    again = open_database(engine.url.render_as_string(hide_password=False))
    with again.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1
    again.dispose()


def test_two_controllers_may_start_at_once(postgresql: object, tmp_path: Path) -> None:
    """Both open an empty database at the same moment; one migrates, the other finds it done."""
    for url in (postgresql.new_url(), sqlite_url(tmp_path / "both.db")):  # type: ignore[attr-defined]
        engines: list[Engine] = []
        failures: list[Exception] = []

        def start(url: str = url, engines: list[Engine] = engines, failures: list[Exception] = failures) -> None:
            try:
                engines.append(open_database(url))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        for engine in engines:
            engine.dispose()


def test_a_first_start_waits_for_another(tmp_path: Path) -> None:
    """Who opens the file while another holds it before its journal is the write-ahead log waits, and is not refused."""
    path = tmp_path / "held.db"
    path.touch(mode=0o600)
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE something (x)")
    holder.execute("BEGIN IMMEDIATE")
    holder.execute("INSERT INTO something VALUES (1)")
    letting_go = threading.Timer(0.3, lambda: holder.execute("COMMIT"))
    letting_go.start()
    open_database(sqlite_url(path)).dispose()
    letting_go.join()
    holder.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Neither the file nor what SQLite puts beside it can be read by others."""
    engine = open_database(sqlite_url(tmp_path / "private" / "controller.db"))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM tasks"))
        for path in (tmp_path / "private").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    engine.dispose()


def test_a_later_versions_database_is_refused(tmp_path: Path) -> None:
    """A version that this Ringstead does not know is named, and nothing is changed."""
    url = sqlite_url(tmp_path / "controller.db")
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DatabaseUnusable, match="another version"):
        open_database(url)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file that is something else, a folder that cannot be made, and a server that is not there are one sentence each."""
    path = tmp_path / "controller.db"
    path.write_bytes(os.urandom(8192))
    with pytest.raises(DatabaseUnusable, match="not a database"):
        open_database(sqlite_url(path))
    with pytest.raises(DatabaseUnusable):
        open_database(sqlite_url(path / "below" / "controller.db"))
    with pytest.raises(DatabaseUnusable, match="cannot be used"):
        open_database(f"postgresql+psycopg://nobody@/nothing?host={tmp_path}")
