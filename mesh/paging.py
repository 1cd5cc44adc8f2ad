"""Makes and verifies page tokens: signed positions in a list, valid only for the list and filter
they were made for. A token is not secret, but must not be forged, because its key goes into a
query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from itsdangerous import BadData, URLSafeSerializer

from mesh.errors import PageTokenInvalid
from mesh.secret_files import SECRET_BYTES_MIN, read_secrets
from mesh.settings import MeshSettings

PAGE_SIZE_DEFAULT = 20
PAGE_SIZE_MAX = 100

Key = str | int
Row = TypeVar("Row")


class PageTokens:
    """Makes and reads the page tokens of one service."""

    def __init__(self, secret: bytes, *others: bytes) -> None:
        """The first secret signs, all of them verify. Raises ValueError for a secret below 32
        bytes.
        """
        if any(len(each) < SECRET_BYTES_MIN for each in (secret, *others)):
            raise ValueError(f"a secret for page tokens has at least {SECRET_BYTES_MIN} bytes")
        self._serializer = URLSafeSerializer(
            [*others, secret],
            salt="paymesh.page_token",
            signer_kwargs={"digest_method": hashlib.sha256},
        )

    @classmethod
    def from_settings(cls, settings: MeshSettings) -> PageTokens:
        """Reads page_token_secret_file. All replicas of a service share it.

        Raises:
            ValueError: the setting is missing or the secret too short. OSError: the file cannot be
                read.
        """
        if settings.page_token_secret_file is None:
            raise ValueError("page_token_secret_file is not set")
        return cls(*read_secrets(settings.page_token_secret_file))

    async def page(
        self,
        read: Callable[[tuple[Key, ...] | None, int], Awaitable[Sequence[Row]]],
        *,
        list_name: str,
        filter: Mapping[str, str],  # noqa: A002  the word of AIP-160
        types: Sequence[type[Key]],
        size: int,
        token: str,
        key: Callable[[Row], Sequence[Key]],
    ) -> tuple[tuple[Row, ...], str]:
        """One page of a list, and the token of the next page, "" after the last.

        Args:
            read: reads at most so many rows behind a key in the order of the list; None: from the
                start.
            list_name, filter, types: as `encode` and `decode` have them.
            size: as the caller asked for it, 0 for the default.
            token: as the caller sent it, "" for the first page.
            key: the key of a row.

        Raises:
            PageTokenInvalid: not made by us, or for another list or filter. Whatever `read` raises.
        """
        limit = page_size(size)
        after = self.decode(token, list_name=list_name, filter=filter, types=types)
        found = await read(after, limit + 1)
        page = tuple(found[:limit])
        if len(found) <= limit:
            return page, ""
        return page, self.encode(list_name=list_name, filter=filter, key=key(page[-1]))

    def encode(self, *, list_name: str, filter: Mapping[str, str], key: Sequence[Key]) -> str:  # noqa: A002 - the word of AIP-160
        """The token of the page that starts after the row with this key.

        Args:
            list_name: the method, e.g. "ListOrders".
            filter: everything that selects the rows: tenant, user, state; not page_size.
            key: values of the ORDER BY columns of the last row of the previous page.
        """
        return str(self._serializer.dumps([_digest(list_name, filter), *key]))

    def decode(
        self,
        token: str,
        *,
        list_name: str,
        filter: Mapping[str, str],  # noqa: A002  - as above
        types: Sequence[type[Key]],
    ) -> tuple[Key, ...] | None:
        """The key after which the page starts; None for an empty token, the first page.

        Raises:
            PageTokenInvalid: wrong signature, made for another list or filter, or with a key of
                other types.
        """
        if not token:
            return None
        try:
            content = self._serializer.loads(token)
        except BadData:
            raise PageTokenInvalid from None
        if not (
            isinstance(content, list)
            and len(content) == len(types) + 1
            and content[0] == _digest(list_name, filter)
        ):
            raise PageTokenInvalid
        key = tuple(content[1:])
        if any(type(value) is not expected for value, expected in zip(key, types, strict=True)):
            raise PageTokenInvalid
        return key


def page_size(requested: int) -> int:
    """Rows of a page: 20 by default, at most 100."""
    return min(requested, PAGE_SIZE_MAX) if requested > 0 else PAGE_SIZE_DEFAULT


def _digest(list_name: str, filter_: Mapping[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode([list_name, sorted(filter_.items())])).hexdigest()[
        :16
    ]
