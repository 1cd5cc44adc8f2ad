"""Alembic's entry: which tables the history of seckill_rpc leads to."""

from mesh.migrations import run_migrations
from seckill_rpc.tables import metadata

run_migrations(metadata)
