"""How bytes travel: TLS from the settings, plaintext only where it cannot be overheard, and the
options of channels and ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc

from mesh.certificate_files import CertificatePaths, CertificateSet
from mesh.errors import MeshError
from mesh.files import Reloaded
from mesh.logs import get_logger
from mesh.settings import MeshSettings, is_loopback

log = get_logger()

Options = Sequence[tuple[str, int | str]]

STREAMS_PER_CONNECTION_MAX: Final = 100  # RFC 9113 6.5.2 asks for no fewer

# to one port: a caller needs one, and each costs memory and a file of the process; those beyond it
# are closed
CONNECTIONS_MAX: Final = 1000

SERVER_OPTIONS: Final[Options] = (
    # without it strangers take the files that database connections need
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    # the default lets two processes bind one port silently
    ("grpc.so_reuseport", 0),
    # a peer that wants more room has to pay with connections; unbounded by default
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    # Calls that grpc has not handed over yet. Beyond the first number it drops calls at random,
    # whoever made them.
    ("grpc.server.max_pending_requests", 4000),
    ("grpc.server.max_pending_requests_hard_limit", 8000),
    # No window for a request that grows with the speed of a connection: what nobody reads would be
    # kept.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
    # our clients watch health and are never idle
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    # a token of 8 KiB and error details fit; above it a random share is refused
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    ("grpc.keepalive_time_ms", 60_000),  # finds dead clients; 2 h by default
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # 5 min by default: would turn our clients away for their keepalive
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.server_handshake_timeout_ms", 10_000),  # 2 min by default
)

_REQUEST_BYTES_MIN: Final = 4096  # reflection asks by names

CLIENT_OPTIONS: Final[Options] = (
    # round_robin looks at health although it has one address; no timeout (fires early in C-core)
    # and no retries (ours go to another replica).
    (
        "grpc.service_config",
        '{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}',
    ),
    ("grpc.service_config_disable_resolution", 1),
    # channels to one target would share one connection
    ("grpc.use_local_subchannel_pool", 1),
    # a restarted server is found at once, not after up to 2 min
    ("grpc.initial_reconnect_backoff_ms", 100),
    # also the shortest connect timeout: not below a TLS handshake
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # a host that is gone without a word is noticed within eight seconds
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # an idle channel makes a cold first call
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    # http_proxy in the environment would reroute the mesh
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
)


class PlaintextRefused(MeshError):
    """Plaintext beyond loopback needs allow_plaintext, or tls_cert_file, tls_key_file and
    tls_ca_file.
    """


def server_options(*, max_request_bytes: int) -> list[tuple[str, int | str]]:
    """Options of a port whose methods read requests of this size at most: grpc throws away what is
    larger before it is put together.
    """
    return [
        *SERVER_OPTIONS,
        ("grpc.max_receive_message_length", max(max_request_bytes, _REQUEST_BYTES_MIN)),
    ]


def certificate_name(service: str) -> str:
    """The name in a service's certificate: "payment_rpc" is payment-rpc.paymesh.internal."""
    return f"{service.replace('_', '-')}.paymesh.internal"


def server_credentials(settings: MeshSettings) -> grpc.ServerCredentials | None:
    """Credentials of our port, or None for plaintext. With a CA, clients must show a certificate of
    it. Certificates are read again when their files change, so that rotation needs no restart.

    Raises:
        PlaintextRefused: no TLS on an address that others reach. ValueError: certificate and key do
            not belong together.
        OSError: a file cannot be read.
    """
    paths = CertificatePaths.of(settings)
    if paths is None:
        _check_plaintext(settings, settings.host)
        return None
    certificates = Reloaded(
        "certificate of the port",
        lambda: _server_configuration(paths.read()),
        paths.files,
        look_seconds=0,
    )
    shown = certificates.version

    # called by grpc for every handshake; None keeps what it has
    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        configuration = certificates.get()
        if certificates.version == shown:
            return None
        shown = certificates.version
        return configuration

    fetch: Any = changed  # may answer None, which the stubs do not know
    return grpc.dynamic_ssl_server_credentials(
        certificates.value, fetch, require_client_authentication=paths.ca is not None
    )


def _server_configuration(files: CertificateSet) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.cert)], root_certificates=files.roots
    )


def reloaded_client_credentials(settings: MeshSettings) -> Reloaded[grpc.ChannelCredentials] | None:
    """Credentials of our channels, read again when their files change; None for plaintext. With a
    CA of ours we show our certificate and trust nobody else. A channel keeps what it was made with:
    whoever holds one makes it anew.

    Raises:
        ValueError: certificate and key do not belong together. OSError: a file cannot be read.
    """
    paths = CertificatePaths.of(settings)
    if paths is None:
        return None
    return Reloaded(
        "certificate of our channels", lambda: _channel_credentials(paths.read()), paths.files
    )


def client_credentials(settings: MeshSettings) -> grpc.ChannelCredentials | None:
    """As `reloaded_client_credentials`, for a channel that lives for one command."""
    credentials = reloaded_client_credentials(settings)
    return None if credentials is None else credentials.value


def _channel_credentials(files: CertificateSet) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(files.roots, files.key, files.cert)


def _check_plaintext(settings: MeshSettings, host: str) -> None:
    if is_loopback(host):
        return
    if not settings.allow_plaintext:
        raise PlaintextRefused(f"{host}: {PlaintextRefused.__doc__}")
    log.warning(
        "PLAINTEXT",
        host=host,
        warning="tokens and amounts travel readable; allow_plaintext is for networks that are "
        "private by other means",
    )


def may_speak_plaintext(settings: MeshSettings, host: str) -> bool:
    """Whether tokens may be sent to a host without TLS."""
    return settings.allow_plaintext or is_loopback(host)
