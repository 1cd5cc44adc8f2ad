"""Checks ports of this machine."""

from __future__ import annotations

import socket


def is_port_free(host: str, port: int) -> bool:
    """True when no process listens there; lingering connections of an ended server do not count."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
