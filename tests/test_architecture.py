"""The rooms' imports point down only: the tree is the architecture.

`ringstead` stands on `proxy`, `replicator` and `scheduler`, which do not know each other; those stand on `storage_node` and
`ring`, which do not know each other either.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT: dict[str, frozenset[str]] = {
    "ring": frozenset(),
    "storage_node": frozenset(),
    "proxy": frozenset({"ring", "storage_node"}),
    "replicator": frozenset({"ring", "storage_node"}),
    "scheduler": frozenset({"ring", "storage_node"}),
    "ringstead": frozenset({"ring", "storage_node", "proxy", "replicator", "scheduler"}),
}
PURE = {
    "ring": {"trio", "socket", "lmdb"},
    "proxy/model.py": {"trio", "socket", "lmdb", "httptools"},
    "proxy/s3": {"lmdb", "socket"},
    "proxy/swift": {"lmdb", "socket"},
    "storage_node/device.py": {"trio", "socket"},
    "storage_node/reader.py": {"trio", "socket"},
    "replicator/totals.py": {"trio", "socket", "lmdb"},
    "scheduler/xen/simulator/calls": {"trio", "socket", "h11"},
    "scheduler/xen/simulator/dispatch.py": {"trio", "socket", "h11", "time"},
    "scheduler/xen/simulator/pool.py": {"trio", "socket", "h11", "time"},
    "scheduler/placement": {"trio", "socket", "sqlalchemy", "XenAPI", "time", "random"},
    "scheduler/claims/check.py": {"trio", "socket", "sqlalchemy", "time", "random"},
}
"""What some rooms and files never import, since their decisions are free of it."""


def python_files(place: str) -> list[Path]:
    """The Python files of a room, or the one file."""
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of each import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide where a thing comes from"
            assert node.module is not None
            yield node.lineno, node.module.partition(".")[0]


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_downwards_only(room: str) -> None:
    """No room imports one beside it or above it."""
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[room] - {room}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {package}"
        for path in python_files(room)
        for line, package in imported(path)
        if package in forbidden
    ]
    assert not wrong


@pytest.mark.parametrize("place", sorted(PURE))
def test_pure_parts_do_no_io(place: str) -> None:
    """What decides does not know how things are sent or waited for."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {package}"
        for path in python_files(place)
        for line, package in imported(path)
        if package in PURE[place]
    ]
    assert not wrong


def test_every_file_opens_with_its_argument() -> None:
    """Each module says what it is for before it does anything."""
    silent = [
        str(path.relative_to(ROOT))
        for room in MAY_IMPORT
        for path in python_files(room)
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_nothing_sleeps_in_threads() -> None:
    """No `time.sleep`: what waits, waits for something."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for room in [*MAY_IMPORT, "tests", "bench"]
        for path in python_files(room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    ]
    assert not wrong
