"""Opening the databases of the services from the command line, for reading and for repairs that a
person asks for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mesh import schema_versions
from mesh.db import Database, open_database
from paymesh_cli.options import load_settings
from paymesh_cli.services import AUDITS
from paymesh_cli.supervisor.installation import Installation

STATEMENT_SECONDS_MAX = 600.0  # a check of a large table takes its time; no buyer waits for it


@asynccontextmanager
async def open_databases(installation: Installation) -> AsyncIterator[dict[str, Database]]:
    """The database of every service that has one, on the schema of this code.

    Raises:
        Unavailable: one is away, or its schema is not the one of this code.
    """
    databases = {}
    async with AsyncExitStack() as stack:
        for service, audit in AUDITS.items():
            db = open_database(
                load_settings(service, var_dir=installation.var_dir).database_url,
                audit.metadata,
                pool_size=2,
                unit_timeout_seconds=STATEMENT_SECONDS_MAX,
                statement_seconds=STATEMENT_SECONDS_MAX,
            )
            stack.push_async_callback(db.close)
            await schema_versions.check_current(service, db.engine)
            databases[service] = db
        yield databases
