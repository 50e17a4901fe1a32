"""What can be in the way of a server on a host, in one word each: for counts, for tests, for programs.

The sentences for people are made where the check is; each begins with what the matter is and gives the figures.
"""

from __future__ import annotations

from typing import Final

CHOSEN: Final = "chosen"
OUTWEIGHED: Final = "outweighed"
"""It could have been; another is better."""
ASKED_FOR: Final = "asked-for"
"""The request names other hosts."""
EXCLUDED: Final = "excluded"
"""The request rules this host out, such as after a build failed there."""
ZONE: Final = "zone"
DISABLED: Final = "disabled"
MAINTENANCE: Final = "maintenance"
NOT_LIVE: Final = "not-live"
DRAINED: Final = "drained"
TRAIT: Final = "trait"
TAG: Final = "tag"
SAME_HOST: Final = "same-host"
DIFFERENT_HOST: Final = "different-host"
GROUP: Final = "group"
MEMORY: Final = "memory"
VCPUS: Final = "vcpus"
DISK_REACH: Final = "disk-reach"
"""A disk that is there lies where the host does not reach."""
SR_TYPE: Final = "sr-type"
"""No SR in reach offers the volume type."""
SR_SPACE: Final = "sr-space"
CLOSED: Final = "closed"
"""At commit: the host or SR takes nothing new now, or is gone."""
CONTENDED: Final = "contended"
"""At commit: others changed the same host again and again while we tried."""
