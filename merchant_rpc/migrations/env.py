"""Alembic's entry: which tables the history of merchant_rpc leads to."""

from merchant_rpc.tables import metadata
from mesh.migrations import run_migrations

run_migrations(metadata)
