"""Saves the last good set of a service in a file, for a process that starts while the registry is
unavailable. A missing, damaged or foreign file counts as none. On a full disk the snapshot is not
saved, but discovery continues. Several processes may share the folder.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from mesh.discovery import Endpoint
from mesh.files import replace_file
from mesh.logs import get_logger

log = get_logger()


class EndpointSnapshot:
    """The file of one service."""

    def __init__(self, folder: Path, service: str) -> None:
        self._service = service
        self._path = folder / f"{service}.json"

    def load(self) -> frozenset[Endpoint]:
        """The set that was saved last; empty when none can be read."""
        try:
            saved = json.loads(self._path.read_bytes())
            return frozenset(Endpoint.parse(address) for address in saved["endpoints"])
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("discovery_snapshot_unreadable", path=str(self._path), error=repr(error))
            return frozenset()

    async def save(self, endpoints: frozenset[Endpoint]) -> None:
        """Replaces the file in one step. Never raises for a disk error."""
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
