"""`paymesh revoke`: user tokens that shall not be believed any more, written into the list that
every process reads again.
"""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path

import click

from mesh.auth import LEEWAY_SECONDS, USER_LIFETIME_SECONDS_MAX
from mesh.claims import MERCHANT_ID
from mesh.clock import SystemClock
from mesh.files import PRIVATE_FILE, replace_file
from mesh.revocations import Revocations
from paymesh_cli.options import installation_option, load_settings
from paymesh_cli.supervisor.installation import Installation

# afterwards every token that a line means has expired
_KEPT_SECONDS = USER_LIFETIME_SECONDS_MAX + LEEWAY_SECONDS + 3600


@click.command()
@installation_option
@click.option("--jti", help="The id of one token, its claim `jti`.")
@click.option(
    "--sub",
    "subject",
    help="Everything that this person got until now: the claim `sub`, or the user id.",
)
@click.option(
    "--merchant",
    "merchant_id",
    help="With --sub: in this shop alone. Without: whoever acts in this shop.",
)
@click.option("--everybody", is_flag=True, help="Every token that was issued until now.")
@click.option("--note", default="", help="Why, for people.")
def revoke(  # noqa: PLR0917 - click passes them by name
    installation: Installation,
    jti: str | None,
    subject: str | None,
    merchant_id: str | None,
    everybody: bool,  # noqa: FBT001  - as above
    note: str,
) -> None:
    """Revokes user tokens. Servers and gateways refuse them within a second of seeing the list.

    The list is USER_TOKENS_REVOKED_FILE; on several machines it has to reach each of them.
    """
    if bool(jti) + bool(subject or merchant_id) + everybody != 1:
        raise click.UsageError("give --jti, or --sub and/or --merchant, or --everybody")
    if merchant_id and MERCHANT_ID.fullmatch(merchant_id) is None:
        raise click.BadParameter(
            "1 to 32 lower case letters, digits, _ and -", param_hint="--merchant"
        )
    now = SystemClock().now().timestamp()
    line: dict[str, object] = {"jti": jti} if jti else {"issued_before": int(now) + 1}
    line |= {
        name: value
        for name, value in (("sub", subject), ("merchant_id", merchant_id), ("note", note))
        if value
    }
    path = load_settings().user_tokens_revoked_file or installation.revoked_file
    try:
        add_line(path, line | {"revoked_at": int(now)}, now_seconds=now)
    except (OSError, ValueError) as problem:
        raise click.ClickException(str(problem)) from None
    click.echo(f"{json.dumps(line)} is in {path}")


def add_line(path: Path, line: dict[str, object], *, now_seconds: float) -> None:
    """Adds a line and leaves out those whose tokens have expired. The file is replaced whole, under
    a lock.

    Raises:
        ValueError: the file has a line that is not understood. OSError: it cannot be written.
    """
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = path.read_bytes() if path.exists() else b""
        Revocations(before)
        kept = [text for text in before.decode().splitlines() if not _is_over(text, now_seconds)]
        mode = path.stat().st_mode & 0o777 if path.exists() else PRIVATE_FILE
        content = "\n".join([*kept, json.dumps(line), ""])
        replace_file(path, content.encode(), mode=mode)


def _is_over(text: str, now_seconds: float) -> bool:
    if not re.match(r"\s*\{", text):
        return False
    written = json.loads(text)
    moment = written.get("revoked_at") or written.get("issued_before")
    return isinstance(moment, int | float) and moment < now_seconds - _KEPT_SECONDS
