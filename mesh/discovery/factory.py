"""Opens the discovery chosen by the settings: Consul, or addresses from configuration."""

from __future__ import annotations

from mesh.discovery import Discovery, Registrar
from mesh.discovery.consul import ConsulDiscovery
from mesh.discovery.consul_registrar import ConsulRegistrar
from mesh.discovery.static import StaticDiscovery, StaticRegistrar
from mesh.settings import MeshSettings


def open_discovery(settings: MeshSettings) -> Discovery:
    """Opens the discovery with which this process finds other services. Must be called inside the
    running loop.

    Raises:
        ValueError: an address is not "host:port".
    """
    if settings.discovery == "static":
        return StaticDiscovery(settings.static_targets)
    return ConsulDiscovery(
        address=settings.consul_address,
        token=_token(settings),
        snapshot_folder=settings.var_dir / "discovery" / settings.service,
    )


def open_registrar(settings: MeshSettings) -> Registrar:
    """Opens the registrar through which others find this process."""
    if settings.discovery == "static":
        return StaticRegistrar()
    return ConsulRegistrar(
        address=settings.consul_address,
        token=_token(settings),
        check_interval_seconds=settings.consul_check_interval_seconds,
    )


def _token(settings: MeshSettings) -> str | None:
    return None if settings.consul_token is None else settings.consul_token.get_secret_value()
