"""`paymesh token`: a user token for development, signed with the secret of the installation."""

from __future__ import annotations

import re
from pathlib import Path

import click
import jwt

from mesh.auth import USER_LIFETIME_SECONDS_MAX, USER_TYPE, UserTokenIssuer
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from mesh.secret_files import read_secret
from mesh.signed_tokens import AUDIENCE
from paymesh_cli.options import installation_option, load_settings
from paymesh_cli.supervisor.installation import Installation

SIGNING_KEY_ID = "installation"  # of the key that deploy/compose/make-issuer.py makes
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """ "90s", "15m", "1h": whole seconds, from one to the longest life of a user token."""

    name = "duration"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Reads the text."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,6})([smhd])", value, re.ASCII)
        seconds = int(match[1]) * _UNITS[match[2]] if match else 0
        if not 1 <= seconds <= USER_LIFETIME_SECONDS_MAX:
            self.fail(
                f"{value!r}: expected a number and s, m, h or d, at most "
                f"{USER_LIFETIME_SECONDS_MAX // 3600}h",
                param,
                ctx,
            )
        return seconds


def open_issuer(installation: Installation) -> UserTokenIssuer:
    """Signs as this installation's verifier expects it.

    Raises:
        click.ClickException: production, or an installation without a secret.
    """
    settings = load_settings()
    if settings.environment == "production":
        raise click.ClickException(
            "PAYMESH_ENVIRONMENT=production: user tokens come from your identity provider"
        )
    path = settings.user_token_secret_file or installation.secret_file("user_token")
    clock = SystemClock()
    try:
        return UserTokenIssuer(
            read_secret(path), clock=clock, ids=UlidIds(clock), issuer=settings.user_token_issuer
        )
    except FileNotFoundError:
        raise click.ClickException(
            f"{path} is not there: `paymesh up` makes it at its first start"
        ) from None
    except (OSError, ValueError) as problem:
        raise click.ClickException(str(problem)) from None


@click.command()
@installation_option
@click.option("--sub", "subject", required=True, help="Who it is for, e.g. alice.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["user", "merchant", "admin"]),
    default=("user",),
    show_default=True,
    help="May be repeated.",
)
@click.option("--merchant", "merchant_id", default="mall", show_default=True, help="The tenant.")
@click.option(
    "--ttl",
    "lifetime_seconds",
    type=Duration(),
    default="1h",
    show_default=True,
    help="How long it is good, e.g. 90s, 15m, 1h.",
)
@click.option(
    "--signing-key",
    "key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="An Ed25519 private key (PEM) whose public half is in the JWKS of the services, instead "
    "of the development secret.",
)
def token(
    installation: Installation,
    subject: str,
    roles: tuple[str, ...],
    merchant_id: str,
    lifetime_seconds: int,
    *,
    key_file: Path | None,
) -> None:
    """Prints a user token for development, or with --signing-key one of an installation that has no
    identity provider yet.

    Use it as `curl -H "authorization: Bearer $(paymesh token --sub alice)" …`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,64}", subject, re.ASCII):
        raise click.BadParameter("1 to 64 letters, digits and _ . : @ -", param_hint="--sub")
    if not re.fullmatch(r"[a-z0-9_-]{1,32}", merchant_id, re.ASCII):
        raise click.BadParameter(
            "1 to 32 lower case letters, digits, _ and -", param_hint="--merchant"
        )
    if key_file is None:
        click.echo(
            open_issuer(installation).issue(
                subject, roles=roles, merchant_id=merchant_id, lifetime_seconds=lifetime_seconds
            )
        )
    else:
        click.echo(
            _sign(
                key_file,
                {"sub": subject, "roles": list(roles), "merchant_id": merchant_id},
                lifetime_seconds=lifetime_seconds,
            )
        )


def _sign(key_file: Path, claims: dict[str, object], *, lifetime_seconds: int) -> str:
    """A token as an identity provider would sign it."""
    clock = SystemClock()
    now = int(clock.now().timestamp())
    try:
        payload = {
            **claims,
            "iss": load_settings().user_token_issuer,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_seconds,
            "jti": UlidIds(clock).new("T"),
        }
        return jwt.encode(
            payload,
            key_file.read_bytes(),
            algorithm="EdDSA",
            headers={"typ": USER_TYPE, "kid": SIGNING_KEY_ID},
        )
    except (OSError, ValueError, jwt.PyJWTError) as problem:
        raise click.ClickException(f"{key_file}: {problem}") from None
