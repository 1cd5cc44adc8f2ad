"""Every guard of the flash sale in SQL and Python is needed: without it, the test that is named beside it fails. `make proof` removes each of them,
every other run removes two, others after each change of seckill_rpc. Those of Redis' scripts: test_seckill_script_mutants.py."""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PROOF
from tests.processes import ROOT
from tests.seckill_code_mutants import MUTANTS, Mutant

COPIED = ("mesh", "order_rpc", "payment_rpc", "seckill_rpc", "gateway", "sandbox", "tests", "pyproject.toml")
SERVICE = "seckill_rpc"
QUICK = 2
TEST_SECONDS = 60    # of one test in a copy: what hangs was not caught by an assertion
RUN_SECONDS = 1800   # of one pytest, which may run all tests that are named
# Reasons that say that the mutant is broken rather than caught.
_BROKEN = re.compile(r" - (SyntaxError|IndentationError|NameError|UnboundLocalError|ImportError|ModuleNotFoundError|.*Timeout)\b")


def mutated(mutant: Mutant) -> dict[str, str]:
    """The texts of the files that a mutant changes, by path below seckill_rpc."""
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        text = texts.get(edit.path) or (ROOT / SERVICE / edit.path).read_text()
        assert text.count(edit.old) == 1, f"{edit.path}: {edit.old!r} stands there {text.count(edit.old)} times"
        texts[edit.path] = text.replace(edit.old, edit.new)
    return texts


@cache
def functions_of(module: str) -> set[str]:
    """The functions of a module below tests/."""
    return {node.name for node in ast.parse((ROOT / "tests" / module).read_text()).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


class Copy:
    """The repository in another folder, where it may be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name)  # with what is compiled: it goes by size and time, which stay
            else:
                shutil.copy(source, folder / name)

    @contextmanager
    def changed(self, texts: dict[str, str]) -> Iterator[None]:
        """Other texts for a while."""
        before = {path: (self.folder / SERVICE / path).read_text() for path in texts}
        try:
            self._write(texts)
            yield
        finally:
            self._write(before)

    def run(self, tests: Collection[str]) -> tuple[int, str]:
        """The exit code of pytest (0 all passed, 1 some failed, others: it could not run them), and what it said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the second run is quicker
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", "--timeout", str(TEST_SECONDS),
             "--rootdir", self.folder, "--basetemp", self.folder / "tmp", *(f"tests/{test}" for test in sorted(tests))],
            cwd=self.folder, env={**environment, "COLUMNS": "300"}, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
        return done.returncode, done.stdout + done.stderr

    def _write(self, texts: dict[str, str]) -> None:
        for path, text in texts.items():
            (self.folder / SERVICE / path).write_text(text)


def chosen() -> list[Mutant]:
    """The mutants of this run: the same in every process of it."""
    if PROOF:
        return MUTANTS
    quick = [mutant for mutant in MUTANTS if "mariadb" not in mutant.test]
    seed = zlib.crc32("".join(path.read_text() for path in sorted((ROOT / SERVICE).rglob("*.py"))).encode())
    return random.Random(seed).sample(quick, QUICK)


@pytest.fixture(scope="module")
def copy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    for server in ("redis_server", "mariadb_server") if PROOF else ("redis_server",):
        request.getfixturevalue(server)  # where it is missing, nothing can be said here either
    return Copy(tmp_path_factory.mktemp("copy"))


def test_each_mutant_changes_the_code_as_it_is_now_and_names_a_test() -> None:
    assert [name for name, count in Counter(mutant.sentence for mutant in MUTANTS).items() if count > 1] == []
    for mutant in MUTANTS:
        for path, text in mutated(mutant).items():
            assert text != (ROOT / SERVICE / path).read_text()
            compile(text, path, "exec")
        module, _, name = mutant.test.partition("::")
        assert name.partition("[")[0] in functions_of(module), f"{mutant.sentence}: there is no test {mutant.test}"


def test_with_all_guards_the_tests_pass_in_the_copy(copy: Copy) -> None:
    """Else what fails there would say nothing. It also says that the copy is what is tested: only a change of it makes them fail below."""
    code, said = copy.run({mutant.test for mutant in chosen()})
    assert code == 0, said


@pytest.mark.parametrize("mutant", chosen(), ids=lambda mutant: mutant.sentence)
def test_without_the_guard_a_test_fails(copy: Copy, mutant: Mutant) -> None:
    with copy.changed(mutated(mutant)):
        code, said = copy.run({mutant.test})
        if re.search(r"^ERROR ", said, re.MULTILINE):  # what could not begin says nothing, e.g. on a machine without memory: once more
            code, said = copy.run({mutant.test})
    assert code == 1, f"{mutant.test} ended with {code}, not with a failure\n{said}"
    failed = re.findall(r"^FAILED .*$", said, re.MULTILINE)
    assert failed, said
    assert not re.search(r"^ERROR ", said, re.MULTILINE), said
    assert not [line for line in failed if _BROKEN.search(line)], said
