"""`python -m gateway` as a process: it serves, counts, and ends when it is told to; it does not
start with settings that make no sense.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.processes import Processes


def test_the_process_serves_until_it_is_told_to_end(
    processes: Processes, free_ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    port, metrics_port, *away = free_ports(4)
    targets = json.dumps(
        {"payment_rpc": [f"127.0.0.1:{away[0]}"], "order_rpc": [f"127.0.0.1:{away[1]}"]}
    )
    process = processes.module(
        "gateway",
        env={
            "GATEWAY_PORT": str(port),
            "GATEWAY_METRICS_PORT": str(metrics_port),
            "PAYMESH_STATIC_TARGETS": targets,
            "PAYMESH_VAR_DIR": str(tmp_path),
        },
    )
    process.wait_for_http(f"http://127.0.0.1:{port}/healthz")
    process.wait_for_http(f"http://127.0.0.1:{port}/readyz", status=503)
    process.wait_for_http(f"http://127.0.0.1:{port}/docs")
    assert b"paymesh_gateway_requests_total" in process.wait_for_http(
        f"http://127.0.0.1:{metrics_port}/metrics"
    )
    assert process.terminate() == 0
    routes = [
        line["route"]
        for line in map(json.loads, process.log_text().splitlines())
        if line["event"] == "request"
    ]
    # a line that still waited was written, and none for the many questions of probes
    assert routes == ["/docs"]


def test_a_process_with_bad_settings_says_which(processes: Processes) -> None:
    process = processes.module(
        "gateway", env={"GATEWAY_CORS_ORIGINS": '["*"]', "GATEWAY_HOST": "0.0.0.0"}
    )
    assert process.wait() != 0
    assert "GATEWAY_CORS_ORIGINS" in process.log_text()
    assert "GATEWAY_HOST" in process.log_text()
    assert "pydantic" not in process.log_text()
