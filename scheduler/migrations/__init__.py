"""The history of the scheduler's schema, for Alembic: one file a version, each with a way forward."""
