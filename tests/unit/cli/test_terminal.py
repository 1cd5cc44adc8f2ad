"""What commands print: nothing that a terminal obeys, no id that is cut, in any encoding."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from mesh.progress import begins, looked_at
from paymesh_cli.terminal import Terminal, neutral, shown, shown_progress, table

ID = "ACT01M8KRPNZD958Y5S3TZRZS3BXY"
OBEYED = [
    *map(chr, range(9)),
    *map(chr, range(11, 32)),
    *map(chr, range(127, 160)),
    "\u061c",
    "\u200e",
    "\u200f",
    "\u2028",
    "\u2029",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
    "\ud800",
    "\udfff",
    "\ufeff",
    "\U000e0041",
]


@pytest.mark.parametrize("character", OBEYED, ids=[f"{ord(character):x}" for character in OBEYED])
def test_what_a_terminal_obeys_is_shown_as_an_escape(character: str) -> None:
    assert character not in shown(f"a{character}b")
    assert shown(f"a{character}b").isascii()
    assert neutral(f"a{character}b") == shown(f"a{character}b")


def test_a_line_break_stays_where_we_wrote_it_and_nowhere_else() -> None:
    assert neutral("a\n\tb") == "a\n\tb"
    assert shown("a\n\tb") == r"a\n\tb"
    assert shown("[red]x[/]") == r"\[red]x\[/]"
    assert shown("杯子 Zoë 🎁") == "杯子 Zoë 🎁"


def printed(rows: list[tuple[str, ...]], *, width: int) -> str:
    made = table("activity", "product", "state", "what", whole=("activity", "product", "state"))
    for row in rows:
        made.add_row(*row)
    out = io.StringIO()
    Terminal(file=out, width=width).show(made)
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 80, 100, 180])
def test_an_id_is_never_cut_or_broken(width: int) -> None:
    text = printed([(ID, "S" * 64, "PUBLISHING", "a word " * 20 + "x" * 90)], width=width)
    assert ID in text
    assert "S" * 64 in text
    assert "PUBLISHING" in text
    assert "…" not in text
    assert text.count("x") == 90, "the rest is folded, not lost"


def test_a_string_that_nobody_cleaned_is_cleaned_on_its_way_out() -> None:
    out = io.StringIO()
    console = Terminal(file=out)
    console.print("a\x1b[2Jb")
    cells = table("what")
    cells.add_row("c\x1b[2Jd")
    console.show(cells)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count(r"\x1b[2J") == 2


PROGRAM = "from paymesh_cli import main; import paymesh_cli.terminal as t, paymesh_cli as c; c._speak_any_encoding(); t.Terminal().print('Zo\\xeb \\u676f')"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
@pytest.mark.parametrize("on_a_terminal", [False, True])
# a case
def test_a_character_that_the_encoding_lacks_does_not_end_the_command(
    environment: dict[str, str], on_a_terminal: bool
) -> None:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "LANG", "PYTHON"))
    }
    end, other = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**inherited, **environment},
        stdout=other if on_a_terminal else subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    said = os.read(end, 4096) if on_a_terminal else done.stdout
    os.close(end)
    os.close(other)
    assert done.returncode == 0, done.stderr.decode()
    assert rb"\u676f" in said


class Seen(Terminal):
    is_terminal = True


@pytest.mark.parametrize("kind", [Seen, Terminal])
def test_whoever_waits_at_a_terminal_sees_how_far_it_is_and_a_file_holds_nothing_of_it(
    kind: type[Terminal],
) -> None:
    out = io.StringIO()
    with shown_progress(kind(file=out, width=80)):
        begins("payment_rpc")
        looked_at("books", 1000)
        looked_at("books", 1000)
        begins("[order]_rpc")
        looked_at("books", 500)
    looked_at("books", 1)  # nobody waits any more
    if kind is Terminal:
        assert out.getvalue() == ""
    else:
        assert "[order]_rpc: books, 500" in out.getvalue()
