"""How far a scrub has come on a device: a small file in the device's directory, so that a restart goes on where it was.

Losing it, or finding it damaged, costs a pass that begins anew, and nothing else; so it is written now and then, whole and
by a rename, and believed only with its checksum.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_64_hexdigest

from ring.durable import replace_file
from storage_node.operations import HASH_BYTES, Space

FILE_NAME: Final = "scrub.json"
VERSION: Final = 1


class AuditPosition(NamedTuple):
    """Where a scrub goes on, and when its pass began."""

    space: int = Space.OBJECT
    start: bytes = bytes(HASH_BYTES)
    began_us: int = 0
    """Microseconds since 1970; 0: the pass has not begun."""
    passes: int = 0
    """Finished before this one."""

    @property
    def done_part(self) -> float:
        """How much of the pass is done, 0..1: hashes are spread evenly, and objects are most of the work."""
        within = int.from_bytes(self.start[:4], "big") / 2**32
        return within * 0.98 if self.space == Space.OBJECT else 0.98 + 0.01 * (self.space - 1) + 0.01 * within


def load_position(root: Path) -> AuditPosition:
    """What was saved; the beginning, if nothing was or it can't be believed."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads((root / FILE_NAME).read_bytes())
        checksum = content.pop("checksum")
        start = bytes.fromhex(content["start"])
        position = AuditPosition(content["space"], start, content["began_us"], content["passes"])
        sound = checksum == _checksum(content) and content["version"] == VERSION
        if sound and len(start) == HASH_BYTES and position.space in list(Space):
            return position
    return AuditPosition()


def save_position(root: Path, position: AuditPosition) -> None:
    """Durably. Raises OSError."""
    content = {
        "version": VERSION,
        "space": int(position.space),
        "start": position.start.hex(),
        "began_us": position.began_us,
        "passes": position.passes,
    }
    replace_file(root / FILE_NAME, json.dumps({**content, "checksum": _checksum(content)}).encode())


def _checksum(content: dict[str, object]) -> str:
    return str(xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode()))
