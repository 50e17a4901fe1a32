"""The benchmarks of single parts, one after the other, for the same report: ring, replication and audit, placement, wire."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PARTS: Final = {
    "Replication and audit": ("bench.replication",),
    "The ring builder beside Swift's": ("bench.ring", "--quick"),
    "Placement": ("bench.placement",),
    "The wire": ("bench.wire",),
}


def run_parts() -> dict[str, str]:
    """Title -> what each of them printed; where one fails, that."""
    found = {}
    for title, arguments in PARTS.items():
        print(f"{title}: {' '.join(arguments)}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
        failure = f"\nfailed ({done.returncode}): {done.stderr.strip()[-1000:]}" if done.returncode else ""
        found[title] = (done.stdout.strip() + failure).strip()
    return found
