"""Every guard with a named mutant is needed: without it, the test that is named beside it fails.
`make proof` removes each of them, every other run ten of different services, chosen by the seed that
pytest prints. Those of Redis' scripts: test_seckill_script_mutants.py."""

from __future__ import annotations

import os
from collections import Counter
from itertools import chain

import pytest

from tests.conftest import PROOF
from tests.mutants.runner import (
    Copy,
    Mutant,
    all_lists,
    choose,
    functions_of,
    mutated,
    need_mariadb,
)
from tools.processes import ROOT

ALL = list(chain.from_iterable(all_lists().values()))
CHOSEN = ALL if PROOF else choose(all_lists(), seed=os.environ["PMTEST_SEED"])


@pytest.fixture(scope="module")
def copy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    for server in ("redis_server", *(["mariadb_server"] if need_mariadb(CHOSEN) else [])):
        request.getfixturevalue(server)  # where it is missing, nothing can be said here either
    return Copy(tmp_path_factory.mktemp("copy"))


def test_no_two_mutants_have_one_name() -> None:
    assert [
        name for name, count in Counter(mutant.sentence for mutant in ALL).items() if count > 1
    ] == []


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.sentence)
def test_a_mutant_changes_the_code_as_it_is_now_and_names_a_test(mutant: Mutant) -> None:
    for path, text in mutated(mutant).items():
        assert text != (ROOT / path).read_text()
        compile(text, path, "exec")
    module, _, name = mutant.test.partition("::")
    assert name.partition("[")[0].rpartition("::")[2] in functions_of(module), (
        f"there is no test {mutant.test}"
    )


def test_another_seed_chooses_other_mutants_and_the_same_seed_the_same() -> None:
    chosen = {
        seed: [mutant.sentence for mutant in choose(all_lists(), seed=seed)]
        for seed in map(str, range(20))
    }
    assert len(set(map(tuple, chosen.values()))) > 10
    assert chosen["7"] == [mutant.sentence for mutant in choose(all_lists(), seed="7")]


def test_with_all_guards_the_tests_pass_in_the_copy(copy: Copy) -> None:
    """Else what fails there would say nothing. It also says that the copy is what is tested: only a
    change of it makes them fail below.
    """
    code, said = copy.run({mutant.test for mutant in CHOSEN})
    assert code == 0, said


@pytest.mark.parametrize("mutant", CHOSEN, ids=lambda mutant: mutant.sentence)
def test_without_the_guard_a_test_fails(copy: Copy, mutant: Mutant) -> None:
    copy.assert_caught(mutant)
