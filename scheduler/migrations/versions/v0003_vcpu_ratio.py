"""Hosts take the vCPUs that the settings say, unless one has a ratio of its own; until here nobody could give one.

There is no way back, as before.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """No host has a ratio of its own."""
    op.execute("UPDATE hosts SET vcpu_ratio = 0")
