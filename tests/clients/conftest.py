"""What the client tests share: a real tree of files, and ways to hold two trees against each other."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

TREE_FILES = int(os.environ.get("RINGSTEAD_TREE_FILES", "300"))
"""`make long` takes 5,000: command lines written in Python need minutes for that many on two cores."""


def _sources() -> list[tuple[Path, Path]]:
    """The files of the installed Python, its library and what is installed beside it, with their place in the tree."""
    found: list[tuple[Path, Path]] = []
    for label, root in (
        ("lib", Path(sysconfig.get_path("stdlib"))),
        ("site", Path(sysconfig.get_path("purelib"))),
    ):
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(set(folders) - {"__pycache__", "site-packages"}) if label == "lib" else sorted(folders)
            if "__pycache__" in folder or "config-" in folder:
                continue
            for name in sorted(files):
                path = Path(folder) / name
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 4 * 1024 * 1024:
                    found.append((path, Path(label) / path.relative_to(root)))
    return found[:TREE_FILES]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with TREE_FILES files: the source of the Python that runs this test."""
    root = tmp_path_factory.mktemp("tree") / "python"
    for source, place in _sources():
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return root


def digest_tree(root: Path) -> dict[str, str]:
    """Relative path to MD5 of every file below a folder."""
    return {
        str(path.relative_to(root)): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def tree_digests(tree: Path) -> dict[str, str]:
    """What every client must read back."""
    return digest_tree(tree)


@pytest.fixture
def bucket_name() -> str:
    """A name that no other test uses."""
    return f"clients-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def run(cluster, tmp_path: Path) -> Callable[..., str]:  # type: ignore[no-untyped-def]
    """Run a command as a user would after `. credentials.env`; its output. Fails with all that it printed."""

    def call(*command: str, cwd: Path | None = None) -> str:
        # Nothing of this user's own set-up: no AWS profile, no certificates, no configuration files.
        ours = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_", "ST_", "OS_"))
        }
        environment = {**ours, **cluster.credentials, "HOME": str(tmp_path), "AWS_PAGER": ""}
        done = subprocess.run(
            command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=850, check=False
        )
        assert done.returncode == 0, (
            f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done.stdout

    return call


def program(name: str) -> str:
    """The path of a program in this environment or the system's; skips the test where there is none."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install {name})")
    return found
