"""Databases as tests open them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData

from mesh.db import Database, open_database

# A busy machine is no outage. Tests of outages open their databases with the short limits of production.
PATIENT_SECONDS = 30.0


def open_patiently(url: str, metadata: MetaData, **options: Any) -> Database:
    """As `open_database`, but slow answers of a busy machine are waited for."""
    return open_database(url, metadata, unit_timeout_seconds=PATIENT_SECONDS, pool_timeout_seconds=PATIENT_SECONDS, **options)
