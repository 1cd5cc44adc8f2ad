"""Alembic's entry: which tables the history of payment_rpc leads to."""

from mesh.migrations import run_migrations
from payment_rpc.tables import metadata

run_migrations(metadata)
