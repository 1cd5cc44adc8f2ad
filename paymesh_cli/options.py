"""What several commands take and need: the installation they work on, and settings whose mistakes
are told without a traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mesh.settings import MeshSettings
from paymesh_cli.supervisor.installation import Installation, RunningMesh
from paymesh_cli.supervisor.plan import SERVERS, PlanRefused, read_settings


def _installation(ctx: click.Context, parameter: click.Parameter, value: Path) -> Installation:  # noqa: ARG001  # click's signature
    return Installation(value.absolute())


def installation_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--var-dir` and passes it as `installation`."""
    return click.option(
        "--var-dir",
        "installation",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="PAYMESH_VAR_DIR",
        default="var",
        show_default=True,
        show_envvar=True,
        callback=_installation,
        help="Where the installation keeps secrets, logs and data.",
    )(command)


services_option = click.option(
    "--service",
    "services",
    multiple=True,
    type=click.Choice(SERVERS),
    default=SERVERS,
    show_default=True,
    help="May be repeated.",
)


def load_settings(service: str = "mesh", **given: Any) -> MeshSettings:
    """The settings of a service.

    Raises:
        click.ClickException: the environment has bad values; the message names the variables and
            never their values.
    """
    try:
        return read_settings(service, **given)
    except PlanRefused as refusal:
        raise click.ClickException(str(refusal)) from None


def need_running(installation: Installation) -> RunningMesh:
    """The mesh of this installation.

    Raises:
        click.ClickException: none runs, or it is still starting.
    """
    mesh = installation.running()
    if mesh is None:
        raise click.ClickException(
            f"no mesh is running on {installation.var_dir}: start it with `make run` (or `paymesh "
            f"up`) in another terminal"
        )
    return mesh
