"""Misspelt variables are named, with the one that was meant; variables of other services are not
called misspelt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.variables import (
    StrangeVariable,
    installed_settings,
    known_variables,
    strange_variables,
)
from paymesh_cli.service_settings import SETTINGS


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("PAYMENT_RPC_SCAN_BATCH_SISE", "PAYMENT_RPC_SCAN_BATCH_SIZE"),
        ("PAYMESH_ENVIROMENT", "PAYMESH_ENVIRONMENT"),
        ("GATEWAY_TRUSTED_PROXYS", "GATEWAY_TRUSTED_PROXIES"),
        ("SECKILL_RPC_PAYMENT_WINDOW", ""),
        ("PAYMESH_FOO", ""),
    ],
)
def test_a_misspelt_variable_is_named_with_the_one_that_was_meant(written: str, meant: str) -> None:
    [found] = strange_variables(
        {written: "1", "PATH": "/bin", "PAYMESH_HOST": "127.0.0.1"}, SETTINGS.values()
    )
    assert found.name == written
    if meant:
        assert found == StrangeVariable(written, meant)


@pytest.mark.parametrize("service", SETTINGS)
def test_no_setting_of_any_service_is_called_strange_by_any(service: str) -> None:
    assert (
        list(
            strange_variables(
                dict.fromkeys(known_variables(SETTINGS.values()), "1"), [SETTINGS[service]]
            )
        )
        == []
    )


def test_every_service_has_its_own_settings_and_installs_them() -> None:
    assert {kind.model_fields["service"].default: kind for kind in SETTINGS.values()} == SETTINGS
    assert set(installed_settings()) == set(SETTINGS.values()), "after pyproject: make install"


def test_a_process_warns_of_it_and_of_nothing_that_others_read(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PAYMESH_VAR_DIR": str(tmp_path),
        "ORDER_RPC_PAYMENT_WINDOW_MINUTE": "5",
        "PAYMESH_SCAN_THRESHOLD_SECONDS": "5",
    }
    done = subprocess.run(
        [sys.executable, "-m", "order_rpc"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [
        (line["variable"], line["did_you_mean"])
        for line in lines
        if line["event"] == "unknown_setting"
    ] == [("ORDER_RPC_PAYMENT_WINDOW_MINUTE", "ORDER_RPC_PAYMENT_WINDOW_MINUTES")]
