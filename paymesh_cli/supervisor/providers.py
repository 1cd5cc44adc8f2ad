"""The simulated payment providers of a development installation: their addresses and the process
that serves all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from paymesh_cli.supervisor.health import PROBE_SECONDS_MAX, AllProbes, HttpProbe
from paymesh_cli.supervisor.processes import ProcessPlan
from sandbox.providers.settings import NAMES, ProviderSettings

PROCESS = "providers"
# They obey anybody: a PAYMESH_HOST that opens the services to a network is not theirs.
HOST = "127.0.0.1"


def choose_addresses(
    settings: ProviderSettings,
    *,
    checked: Callable[..., int],
    usual: Callable[[int], int],
    free: Callable[[], int],
) -> dict[str, str]:
    """Provider -> "host:port".

    Args:
        checked: takes a port that somebody has set (port, name of the setting, host=); raises when
            it is taken.
        usual: the port itself, or a free one where it is taken.
        free: any free port.
    """
    found = {}
    for name in NAMES:
        port = settings.port_of(name)
        if f"{name}_port" not in settings.model_fields_set:
            port = usual(port)
        elif port:
            port = checked(port, f"PROVIDERS_{name.upper()}_PORT", host=HOST)
        else:
            port = free()
        found[name] = f"{HOST}:{port}"
    return found


def provider_processes(
    addresses: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[ProcessPlan, ...]:
    """The one process that serves all of them; none without addresses."""
    if not addresses:
        return ()
    ports = {
        f"PROVIDERS_{name.upper()}_PORT": address.rpartition(":")[2]
        for name, address in addresses.items()
    }
    return (
        ProcessPlan(
            name=PROCESS,
            command=(sys.executable, "-m", "sandbox.providers"),
            probe=providers_probe({name: f"http://{at}" for name, at in addresses.items()}),
            # payment_rpc need not wait for them
            is_early=True,
            env={**environment, "PROVIDERS_HOST": HOST, **ports},
        ),
    )


def providers_probe(urls: Mapping[str, str], seconds_max: float = PROBE_SECONDS_MAX) -> AllProbes:
    """Healthy when each provider answers."""
    return AllProbes(tuple(HttpProbe(f"{url}/_sim/health", seconds_max) for url in urls.values()))
