"""Secrets and TLS files that settings name: read here, and put where libraries look for them.
Secrets are files, because environments are inherited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

_TEXT = re.compile(rb"[\x20-\x7e]+")
SECRET_BYTES_MIN = 32  # a shorter HMAC-SHA256 key is weaker than the hash (RFC 7518, 3.2)


def read_secret(path: Path) -> bytes:
    """The secret in a file by which we sign; see `read_secrets`."""
    return read_secrets(path)[0]


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """The secrets in a file, one per line: the first signs, all of them verify. With two, one takes
    over from the other while both live. A file that is no text is one secret.

    Raises:
        ValueError: no secret, or one with fewer than 32 bytes. OSError: the file cannot be read.
    """
    content = path.read_bytes().strip()
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    secrets_ = (
        lines if content.isascii() and all(_TEXT.fullmatch(line) for line in lines) else [content]
    )
    if not secrets_ or any(len(secret) < SECRET_BYTES_MIN for secret in secrets_):
        raise ValueError(f"{path}: a secret has at least {SECRET_BYTES_MIN} bytes")
    return tuple(secrets_)


def read_named_secrets(
    path: Path, read_line: Callable[[str], tuple[str, bytes]], *, noun: str
) -> dict[str, bytes]:
    """The secrets in a file with one line for each, by id, in the order of the lines.

    Args:
        read_line: id and secret of a line; raises ValueError that says what is wrong with it.
        noun: what the file holds, for the text of an error.

    Raises:
        ValueError: no secret, a line that `read_line` refuses, or two with one id.
        OSError: the file cannot be read.
    """
    found: dict[str, bytes] = {}
    for number, line in enumerate(path.read_text(encoding="ascii").split("\n"), 1):
        if not line.strip():
            continue
        try:
            name, secret = read_line(line.strip())
        except ValueError as problem:
            raise ValueError(f"{path}: line {number} {problem}") from None
        if name in found:
            raise ValueError(f"{path}: line {number} has the id of another line")
        found[name] = secret
    if not found:
        raise ValueError(f"{path} has no {noun}")
    return found


def read_password(path: Path) -> str:
    """The password or token in a file, without surrounding white space.

    Raises:
        ValueError: the file is empty or not text. OSError: it cannot be read.
    """
    password = path.read_text(encoding="utf-8").strip()
    if not password:
        raise ValueError(f"{path} is empty")
    return password


def _set_database_password(values: dict[str, Any], password: str) -> None:
    url = values.get("database_url")
    if not url:
        raise ValueError("needs database_url")
    values["database_url"] = _with_password(url, password)


def _set_redis_passwords(values: dict[str, Any], password: str) -> None:
    names = [name for name in values if _is_redis_url(name) and values[name]]
    if not names:
        raise ValueError("needs redis_url")
    values.update({name: _with_password(values[name], password) for name in names})


def _set_consul_token(values: dict[str, Any], token: str) -> None:
    if values.get("consul_token"):
        raise ValueError("consul_token is set too, which of them counts?")
    values["consul_token"] = token


def _with_password(url: str, password: str) -> str:
    """A URL with this password, whatever it had before.

    Raises:
        ValueError: it names no server.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("the URL names no server that would ask for a password")
    user, _, server = parts.netloc.rpartition("@")
    return urlunsplit(
        parts._replace(netloc=f"{user.partition(':')[0]}:{quote(password, safe='')}@{server}")
    )


# Which setting becomes which option of a URL's query; the names are those of SQLAlchemy and
# redis-py.
_DATABASE_TLS = {
    "database_tls_ca_file": "ssl_ca",
    "database_tls_cert_file": "ssl_cert",
    "database_tls_key_file": "ssl_key",
}
_REDIS_TLS = {
    "redis_tls_ca_file": "ssl_ca_certs",
    "redis_tls_cert_file": "ssl_certfile",
    "redis_tls_key_file": "ssl_keyfile",
}


def _add_tls_files(values: dict[str, Any]) -> list[str]:
    """Puts the TLS files into the URLs, which every tool and library reads; returns what is wrong
    with them.
    """
    problems = []
    for settings, is_meant, scheme in (
        (_DATABASE_TLS, "database_url".__eq__, "mysql"),
        (_REDIS_TLS, _is_redis_url, "rediss://"),
    ):
        options = {
            option: str(values[setting])
            for setting, option in settings.items()
            if values.get(setting)
        }
        if not options:
            continue
        problems += [
            f"{setting}: no such file"
            for setting in settings
            if values.get(setting) and not Path(values[setting]).is_file()
        ]
        names = [name for name in values if is_meant(name) and values[name]]
        fitting = [name for name in names if str(values[name]).startswith(scheme)]
        # a file that nobody uses is a misspelt URL, and a connection in the clear
        if names != fitting or not names:
            problems.append(f"{next(iter(settings))}: every such URL has to begin with {scheme}")
        values.update({name: _with_query(str(values[name]), options) for name in fitting})
    return problems


def _is_redis_url(name: str) -> bool:
    return name.endswith("redis_url")


def _with_query(url: str, options: dict[str, str]) -> str:
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({**options}))))
    return urlunsplit(parts._replace(query=query))


_PASSWORDS = (
    ("database_password_file", _set_database_password),
    ("redis_password_file", _set_redis_passwords),
    ("consul_token_file", _set_consul_token),
)


def with_passwords_and_tls(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings with the passwords and TLS files that they name inside their URLs, and what is wrong
    with those files, as "setting: problem".
    """
    values = dict(settings)
    problems = []
    for setting, apply in _PASSWORDS:
        if values.get(setting):
            try:
                apply(values, read_password(Path(values[setting])))
            except (OSError, ValueError) as problem:
                problems.append(f"{setting}: {problem}")
    return values, problems + _add_tls_files(values)
