"""Mutants: guards of the product removed one at a time, each with the test that must fail without
it. The name of a mutant is the sentence that it breaks.

How to add one: in `tests/mutants/<service>.py` (a new file is found by itself) put into its list
`MUTANTS`

    Mutant("a refund is its merchant's",
           "test_refunds.py::test_a_refund_of_another_shop_is_not_found[sqlite]",
           (Edit("payment_rpc/store/refunds.py", ", merchant_id=merchant_id", ""),))

`Edit.old` occurs exactly once in the file, whose path starts at the root of the repository, however
its lines are broken. Name one case of a
parametrized test by its id in brackets: one test per mutant keeps a run short. A second edit takes
away what stands behind the first one, with which nobody could see that the first is gone. Then run
`PAYMESH_PROOF=1 pytest tests/integration/house/test_code_mutants.py -k "a refund is"`.

Each run removes a few of each list, other ones each time; `PMTEST_SEED`, which pytest prints in its
first lines, chooses them again. `make proof` removes all.
"""

from __future__ import annotations

import importlib
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.processes import ROOT

COPIED = (
    "mesh",
    "order_rpc",
    "payment_rpc",
    "seckill_rpc",
    "merchant_rpc",
    "gateway",
    "sandbox",
    "paymesh_cli",
    "protos",
    "generated",
    "tests",
    "tools",
    "pyproject.toml",
)
LISTS = 10  # of which a run that is not the proof takes one mutant each
TEST_SECONDS = 60  # of one test in a copy: what hangs was not caught by an assertion
RUN_SECONDS = 1800  # of one pytest, which may run all tests that are named
# Reasons that say that the mutant is broken rather than caught.
_BROKEN = re.compile(
    r" - "
    r"(SyntaxError|IndentationError|NameError|UnboundLocalError|ImportError|ModuleNotFoundError|.*Timeout)\b"
)


@dataclass(frozen=True, slots=True)
class Edit:
    """`old` occurs once in a file, named from the root of the repository, and becomes `new`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """Edits that break a sentence; then `test` (`test_refunds.py::test_x[sqlite]`) fails."""

    sentence: str
    test: str
    edits: tuple[Edit, ...]


@cache
def all_lists() -> dict[str, list[Mutant]]:
    """`MUTANTS` of every module of tests/mutants, by the name of what they mutate."""
    return {
        path.stem: importlib.import_module(f"tests.mutants.{path.stem}").MUTANTS
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if path != Path(__file__)
    }


def choose(lists: dict[str, list[Mutant]], *, seed: str, count: int = LISTS) -> list[Mutant]:
    """One of each of some lists: the same in every process of a run, others with another seed."""
    drawn = random.Random(seed).sample(sorted(lists), min(count, len(lists)))
    return [random.Random(f"{seed} {name}").choice(lists[name]) for name in drawn]


def mutated(mutant: Mutant) -> dict[str, str]:
    """The texts of the files that a mutant changes, by path.

    Raises:
        AssertionError: the code that it changes does not stand there exactly once.
    """
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        text = texts.get(edit.path) or (ROOT / edit.path).read_text()
        found = list(_pattern(edit.old).finditer(text))
        assert len(found) == 1, f"{edit.path}: {edit.old!r} stands there {len(found)} times"
        texts[edit.path] = text[: found[0].start()] + edit.new + text[found[0].end() :]
    return texts


def _pattern(code: str) -> re.Pattern[str]:
    """Finds code however the formatter broke its lines: white space counts only between two words,
    and a comma may stand before a closing bracket. White space at the ends of `code` counts as it
    stands."""
    words = re.findall(r"\w+|[^\w\s]", code)
    parts = [re.escape(words[0])]
    for before, word in itertools.pairwise(words):
        if word in ")]}" and before not in "([{,":
            parts.append(r"\s*,?\s*")
        else:
            parts.append(r"\s+" if re.match(r"\w", before) and re.match(r"\w", word) else r"\s*")
        parts.append(re.escape(word))
    bare = code.strip()
    ends = code[: code.index(bare)], code[code.index(bare) + len(bare) :]
    lead, tail = (r"\s*" if end == " " else re.escape(end) for end in ends)
    return re.compile(lead + "".join(parts) + tail)


@cache
def path_of(module: str) -> Path:
    """Where a test module stands, from the root: `test_refunds.py` in tests/integration/payment.
    No two test modules have one name (tests/unit/house/test_architecture.py)."""
    [path] = (ROOT / "tests").rglob(module)
    return path.relative_to(ROOT)


@cache
def functions_of(module: str) -> set[str]:
    """The functions of a test module."""
    return set(
        re.findall(r"^ *(?:async )?def (\w+)", (ROOT / path_of(module)).read_text(), re.MULTILINE)
    )


def _with_folder(test: str) -> str:
    module, _, name = test.partition("::")
    return f"{path_of(module)}::{name}"


class Copy:
    """The repository in another folder, where it may be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                # with what is compiled: it goes by size and time, which stay
                shutil.copytree(source, folder / name)
            else:
                shutil.copy(source, folder / name)

    @contextmanager
    def changed(self, texts: dict[str, str]) -> Iterator[None]:
        """Other texts for a while."""
        before = {path: (self.folder / path).read_text() for path in texts}
        try:
            self._write(texts)
            yield
        finally:
            self._write(before)

    def run(self, tests: Collection[str]) -> tuple[int, str]:
        """The exit code of pytest (0 all passed, 1 some failed, others: it could not run them), and
        what it said.
        """
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the second run is quicker
        environment.pop("PMTEST_PROOF", None)  # a few rounds show what is missing
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "--tb=short",
                "-p",
                "no:cacheprovider",
                "--timeout",
                str(TEST_SECONDS),
                "--rootdir",
                self.folder,
                "--basetemp",
                self.folder / "tmp",
                *sorted(map(_with_folder, tests)),
            ],
            cwd=self.folder,
            env={**environment, "COLUMNS": "300"},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def assert_caught(self, mutant: Mutant) -> None:
        """The test of a mutant fails in the copy, by an assertion.

        Raises:
            AssertionError: it passes, or could not run.
        """
        with self.changed(mutated(mutant)):
            code, said = self.run({mutant.test})
            # what could not begin says nothing, e.g. on a machine without memory: once more
            if re.search(r"^ERROR ", said, re.MULTILINE):
                code, said = self.run({mutant.test})
        assert code == 1, f"{mutant.test} ended with {code}, not with a failure\n{said}"
        failed = re.findall(r"^FAILED .*$", said, re.MULTILINE)
        assert failed, said
        # A fixture that audits what the test leaves may fail as well; nothing else may be broken.
        broken = set(re.findall(r"^ERROR (\S+)", said, re.MULTILINE))
        assert broken <= {line.split()[1] for line in failed}, said
        assert not [line for line in failed if _BROKEN.search(line)], said

    def _write(self, texts: dict[str, str]) -> None:
        for path, text in texts.items():
            (self.folder / path).write_text(text)


def need_mariadb(mutants: Sequence[Mutant]) -> bool:
    """Whether the tests of these mutants ask for a real database server."""
    return any("mariadb" in mutant.test for mutant in mutants)
