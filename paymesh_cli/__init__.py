"""The command line `paymesh`. Each command lives in a module of its own that is imported when it is
called: `paymesh --help` loads no gRPC.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

_COMMANDS = {
    "up": "Runs the whole mesh on this machine until Ctrl-C.",
    "demo": "Buys something from the running mesh, by card and at the cashier.",
    "demo-seckill": "Runs a flash sale on the running mesh, to be watched.",
    "demo-channels": "Buys once through each simulated payment provider.",
    "token": "Prints a user token for development.",
    "operator": "Invites operators and lists them.",
    "revoke": "Revokes user tokens before they expire.",
    "certs": "Makes a private CA and certificates for TLS between services.",
    "migrate": "Brings the databases to the newest schema.",
    "audit": "Proves that money, orders and stock agree.",
    "explain": "Tells what happened to an order and what happens next.",
    "seckill": "Lists flash sales and builds anew what Redis knows of one.",
    "stats": "Counts the figures of orders again.",
    "channels": "Lists and tries accounts at payment providers, and rotates their key.",
    "outbox": "Lists messages between services and sends them once more.",
    "doctor": "Looks for what keeps the mesh from running well.",
}


class _Lazy(click.Group):
    """A group that knows the names of its commands without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """In the order in which a newcomer needs them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """Loads one command."""
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"paymesh_cli.{name}"), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"paymesh_cli.{cmd_name} has no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """The list in --help, without loading anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="paymesh")
def paymesh() -> None:
    """Payments, orders and stock as a gRPC service mesh.

    Settings come from the environment: PAYMESH_<NAME> for all services, <SERVICE>_<NAME> (e.g.
    GATEWAY_PORT) for one of them.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    _speak_any_encoding()
    paymesh(args=arguments, prog_name="paymesh")


def _speak_any_encoding() -> None:
    """Characters that the encoding of the terminal lacks (LANG=C, latin-1) are shown as escapes
    instead of ending the command.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
