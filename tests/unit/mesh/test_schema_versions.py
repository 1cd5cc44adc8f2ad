"""The newest schema of a service, read from its migrations without Alembic."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from mesh.schema_versions import newest_revision

SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")


@pytest.mark.parametrize("service", SERVICES)
def test_it_is_what_alembic_says(service: str) -> None:
    config = Config()
    config.set_main_option("script_location", f"{service}:migrations")
    assert newest_revision(service) == ScriptDirectory.from_config(config).get_current_head()


@pytest.mark.parametrize(
    "steps",
    [{}, {"0001": "", "0002": "0001", "0003": "0001"}],
    ids=["no history", "two ends"],
)
def test_a_history_without_one_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: dict[str, str]
) -> None:
    name = f"odd_rpc_{len(steps)}"  # a package is imported once
    versions = tmp_path / name / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    for revision, follows in steps.items():
        down = f'"{follows}"' if follows else "None"
        (versions / f"{revision}.py").write_text(
            f'revision = "{revision}"\ndown_revision = {down}\n'
        )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"the migrations of {name} end in"):
        newest_revision(name)
