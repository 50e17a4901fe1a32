"""Alembic's entry: run the migrations on the connection that `scheduler.records.schema.migrate` hands over.

There is no mode without a connection, and no alembic.ini: an operator never runs Alembic by hand.
"""

from __future__ import annotations

from alembic import context

from scheduler.metadata import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
