"""CI runs on every version of Python that pyproject.toml allows, each in an environment of its
own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[3]
BASH = shutil.which("bash") or "/bin/bash"


def job() -> dict[str, Any]:
    """The only job of the workflow."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    [found] = workflow["jobs"].values()
    assert isinstance(found, dict)
    return found


def test_there_is_a_job_for_each_version_that_we_support() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = SpecifierSet(project["requires-python"])
    versions = [f"3.{minor}" for minor in range(30)]
    assert job()["strategy"]["matrix"] == {
        "python": [version for version in versions if version in supported]
    }


def test_each_job_is_what_can_be_run_at_home() -> None:
    runs = [step for step in job()["steps"] if "run" in step]
    assert runs == [{"run": ".ci/run", "env": {"PYTHON": "python${{ matrix.python }}"}}]
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize(("version", "folder"), [("3.12", ".venv-3.12"), ("", ".venv")])
def test_the_chosen_interpreter_has_an_environment_of_its_own(
    tmp_path: Path, version: str, folder: str
) -> None:
    """Else a version would be reported green that another one ran."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    programs = {
        "git": "",
        "make": 'echo "$1 CI=$CI in ${VENV:-.venv}"',
        "python3": "",
        "python3.12": "echo 3.12",
        "dirname": 'exec /usr/bin/dirname "$1"',
    }
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!{BASH}\n{text}\n")
        program.chmod(0o755)
    done = subprocess.run(
        [BASH, str(tmp_path / ".ci/run")],
        env={"PATH": str(tmp_path / "bin"), **({"PYTHON": f"python{version}"} if version else {})},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"check CI=true in {folder}\n"
