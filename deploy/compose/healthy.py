"""Health check of a container: ends with 0 when the process answers.

    python healthy.py http://127.0.0.1:8080/readyz
    python healthy.py payment_rpc localhost:9907        the gRPC health service, with the certificates of that service
"""

from __future__ import annotations

import asyncio
import sys

from mesh.supervisor.health import GrpcProbe, HttpProbe
from mesh.supervisor.plan import read_settings

probe = HttpProbe(sys.argv[1]) if len(sys.argv) == 2 else GrpcProbe(sys.argv[2], read_settings(sys.argv[1]))
sys.exit(asyncio.run(probe()) or 0)
