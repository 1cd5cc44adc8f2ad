"""`paymesh certs`: a private CA and a certificate per service, for TLS between services."""

from __future__ import annotations

import re
from pathlib import Path

import click

from mesh.clock import SystemClock
from paymesh_cli.account_key_files import ensure_account_keys
from paymesh_cli.certificates import CertificateAuthority
from paymesh_cli.people_keys import ensure_people_keys
from paymesh_cli.supervisor.plan import DEFAULT_PORTS

_WITH_PEOPLE = "merchant_rpc"
_WITH_ACCOUNTS = "payment_rpc"
_SERVICE = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


@click.command()
@click.option(
    "--out",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where ca.pem, ca.key and the rest go.",
)
@click.option(
    "--service",
    "services",
    multiple=True,
    default=tuple(DEFAULT_PORTS),
    show_default=True,
    help="May be repeated.",
)
def certs(directory: Path, services: tuple[str, ...]) -> None:
    """Makes a private CA (once) and a fresh certificate for each service; prints the settings that
    use them.

    Running services read a replaced certificate without a restart. Keep ca.key to yourself: whoever
    has it can speak as any service.

    For merchant_rpc it makes, once, the key that signs the tokens of operators, the one that
    protects what people log in with, and the pepper of API keys, too. operators.pub.pem belongs
    into the PAYMESH_CALLER_KEYS_DIR of every service, the other three to merchant_rpc alone. Keep a
    copy: without the pepper no API key is ever found again.

    For payment_rpc it makes, once, the key under which it keeps what merchants have at payment
    providers. Keep a copy of that, too.
    """
    for service in services:
        if _SERVICE.fullmatch(service) is None:
            raise click.BadParameter(
                f"{service!r}: expected the name of a service, e.g. payment_rpc",
                param_hint="--service",
            )
    directory = directory.absolute()
    authority = CertificateAuthority(directory, clock=SystemClock())
    try:
        authority.ensure()
        for service in services:
            files = authority.issue(service)
            click.echo(f"{service.upper()}_TLS_CA_FILE={files.ca}")
            click.echo(f"{service.upper()}_TLS_CERT_FILE={files.cert}")
            click.echo(f"{service.upper()}_TLS_KEY_FILE={files.key}")
        if _WITH_PEOPLE in services:
            keys = ensure_people_keys(directory)
            click.echo(f"{_WITH_PEOPLE.upper()}_OPERATOR_KEY_FILE={keys.operator}")
            click.echo(f"{_WITH_PEOPLE.upper()}_TOTP_KEY_FILE={keys.totp}")
            click.echo(f"{_WITH_PEOPLE.upper()}_PEPPER_FILE={keys.pepper}")
        if _WITH_ACCOUNTS in services:
            file = ensure_account_keys(directory)
            click.echo(f"{_WITH_ACCOUNTS.upper()}_ACCOUNT_KEY_FILE={file}")
    except (OSError, TypeError, ValueError) as problem:
        raise click.ClickException(f"{directory}: {problem}") from None
