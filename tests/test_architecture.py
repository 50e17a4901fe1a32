"""The rooms' imports point down only: the tree is the architecture.

`ringstead` stands on `proxy`, `replicator` and `scheduler`, which do not know each other; those stand on `storage_node` and
`ring`, which do not know each other either. Inside `ringstead` arrows point down from its command line to its settings.
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
INSIDE: dict[str, frozenset[str]] = {
    "settings": frozenset(),
    "processes": frozenset(),
    "rings": frozenset({"settings", "processes"}),
    "one_machine": frozenset({"settings", "processes", "rings"}),
    "services": frozenset({"settings", "processes", "rings", "one_machine"}),
    "services/controller": frozenset({"settings", "processes", "rings", "one_machine"}),
    "services/daemons": frozenset({"settings", "processes", "rings"}),
    "services/storage": frozenset({"settings", "processes", "rings"}),
    "commands": frozenset({"settings", "processes", "rings", "one_machine"}),
    "commands/cloud": frozenset({"settings", "processes", "rings", "one_machine", "services/controller", "commands"}),
    "commands/cluster": frozenset({"settings", "processes", "rings", "one_machine", "commands", "commands/ring"}),
    "commands/ring": frozenset({"one_machine", "commands"}),
}
"""What each package of `ringstead` may import of the others. `errors` all may; `cli`, above them, none."""
BESIDE = "services/run.py"
"""Starts the service that it is told: the one file that knows what stands beside and below it."""
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


def modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that a file imports, inside functions too; of `from a import b` it is `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide where a thing comes from"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of each import in a file."""
    return ((line, module.partition(".")[0]) for line, module in modules(path))


def package_inside(module: str) -> str:
    """Which package of INSIDE a module of `ringstead` is in; the module's own name for what stands above or under all."""
    words = module.split(".")[1:]
    return next(("/".join(words[:depth]) for depth in (2, 1) if "/".join(words[:depth]) in INSIDE), words[0])


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


@pytest.mark.parametrize("package", sorted(INSIDE))
def test_packages_of_ringstead_import_downwards_only(package: str) -> None:
    """No package of `ringstead` imports one beside it or above it, nor the command line."""
    allowed = INSIDE[package] | {package, "errors"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(f"ringstead/{package}")
        if package_inside(".".join(path.relative_to(ROOT).with_suffix("").parts)) == package
        for line, module in modules(path)
        if module.startswith("ringstead.") and package_inside(module) not in allowed
        if not str(path).endswith(BESIDE)
    ]
    assert not wrong


def test_every_module_of_ringstead_has_its_package() -> None:
    """Beside the packages stand only the command line, what starts it, and the errors that all of them raise."""
    assert {path.name for path in (ROOT / "ringstead").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "cli.py",
        "errors.py",
    }
    assert {path.parent.name for path in (ROOT / "ringstead").glob("*/__init__.py")} == {
        package for package in INSIDE if "/" not in package
    }


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
        if "time.sleep" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    ]
    assert not wrong
