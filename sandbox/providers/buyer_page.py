"""A page for a person who plays the buyer; it works without script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = (
    ":root{color-scheme:light dark}body{margin:0 auto;max-width:28rem;padding:2rem 1rem;"
    "font:16px/1.5 system-ui,'PingFang SC','Microsoft YaHei',sans-serif}"
    "dl{display:grid;grid-template-columns:auto 1fr;gap:.4rem 1rem}dd{margin:0;"
    "overflow-wrap:anywhere}button{width:100%;min-height:3rem;margin-top:.6rem;font:inherit}"
)


def buyer_page(
    title: str,
    facts: Mapping[str, str],
    *,
    action: str = "",
    deeds: Sequence[tuple[str, str]] = (),
    link: tuple[str, str] | None = None,
    charset: str = "utf-8",
) -> str:
    """A page with facts and a button for each deed.

    Args:
        action: where the buttons post to, as field `does`.
        deeds: value and caption of each button.
        link: address and caption.
        charset: what the page says about its encoding.
    """
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()
    )
    buttons = "".join(
        f'<button name="does" value="{escape(value)}">{escape(caption)}</button>'
        for value, caption in deeds
    )
    form = f'<form method="post" action="{escape(action)}">{buttons}</form>' if deeds else ""
    anchor = f'<p><a href="{escape(link[0])}">{escape(link[1])}</a></p>' if link else ""
    return (
        f'<!doctype html><html lang="zh"><head><meta charset="{charset}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><dl>{rows}</dl>{form}{anchor}</body></html>"
    )
