"""Runs a process of the mesh: reads settings, configures logs, runs the loop, and exits without
delay.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import uvloop

from mesh import failpoints, logs
from mesh.errors import MeshError
from mesh.settings import MeshSettings, SettingsRefused, read_settings
from mesh.variables import strange_variables

S = TypeVar("S", bound=MeshSettings)


def run_process(
    settings_class: type[S],
    serve: Callable[[S], Coroutine[Any, Any, None]],
    *,
    refusals: tuple[type[Exception], ...] = (),
) -> NoReturn:
    """Reads the settings, serves, and ends the process. Errors at start are printed on standard
    error, without a traceback.

    Args:
        serve: returns after SIGTERM or SIGINT.
        refusals: further exceptions of `serve` to print so, besides MeshError, ValueError and
            OSError.
    """
    service = str(settings_class.model_fields["service"].default)
    told: tuple[type[Exception], ...] = (MeshError, SettingsRefused, ValueError, OSError, *refusals)
    try:
        settings = read_settings(settings_class)
        failpoints.arm(settings.failpoints, environment=settings.environment)
        logs.configure(settings.service, settings.log_level, json=settings.log_json)
        for strange in strange_variables(os.environ, (settings_class,)):
            logs.get_logger().warning(
                "unknown_setting", variable=strange.name, did_you_mean=strange.likely
            )
        uvloop.run(serve(settings))
    except told as error:
        sys.exit(f"{service}: {error}")
    _end()


def exempt_from_gc() -> None:
    """Takes what lives now out of all garbage collections. Call it once, when the process serves:
    modules, descriptors and statements live as long as it does, and a full collection that goes
    through half a million of them keeps every call waiting for some 50 ms.
    """
    gc.freeze()


def _end() -> NoReturn:
    """Exits at once. Everything is closed already, and the finalisation of the interpreter would
    cost a third of a second of CPU per process.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # the reader has closed the stream
    os._exit(0)
