"""The last good set of a service in a file, so that a process that starts while the registry is
away still knows where to call. A file that is missing, torn or foreign counts as none; a disk that
is full costs the snapshot, never discovery. Several processes may share the folder."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from mesh.discovery import Endpoint
from mesh.files import replace_file
from mesh.logs import get_logger

log = get_logger()


class EndpointSnapshot:
    """One service's file."""

    def __init__(self, folder: Path, service: str) -> None:
        self._service = service
        self._path = folder / f"{service}.json"

    def load(self) -> frozenset[Endpoint]:
        """The set that was saved last; empty when there is none that can be read."""
        try:
            saved = json.loads(self._path.read_bytes())
            return frozenset(Endpoint.parse(address) for address in saved["endpoints"])
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("discovery_snapshot_unreadable", path=str(self._path), error=repr(error))
            return frozenset()

    async def save(self, endpoints: frozenset[Endpoint]) -> None:
        """Replaces the file in one step. Never raises for a disk that refuses."""
        text = json.dumps(
            {
                "service": self._service,
                "endpoints": [str(endpoint) for endpoint in sorted(endpoints)],
            }
        )
        try:
            await asyncio.to_thread(self._replace, text)
        except OSError as error:
            log.warning("discovery_snapshot_not_saved", path=str(self._path), error=repr(error))

    def _replace(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, text.encode())
