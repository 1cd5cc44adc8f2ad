"""Alembic's entry: which tables the history of order_rpc leads to."""

from mesh.migrations import run_migrations
from order_rpc.tables import metadata

run_migrations(metadata)
