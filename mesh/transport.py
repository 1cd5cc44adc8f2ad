"""Makes TLS credentials from the settings, refuses plaintext beyond loopback unless it is allowed,
and holds the options of channels and ports.
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

# per port; further ones are closed. A caller needs one, and each costs memory and a file
# descriptor.
CONNECTIONS_MAX: Final = 1000

SERVER_OPTIONS: Final[Options] = (
    # unlimited connections could use up the file descriptors that database connections need
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    # the default lets two processes bind one port silently
    ("grpc.so_reuseport", 0),
    # a peer that needs more streams has to open more connections; unbounded by default
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    # Calls that grpc has not passed to us yet. Beyond the first number it drops calls of any caller
    # at random.
    ("grpc.server.max_pending_requests", 4000),
    ("grpc.server.max_pending_requests_hard_limit", 8000),
    # No flow-control window that grows with the speed of a connection: unread requests would be
    # buffered.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
    # our own clients watch health and are never idle
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    # fits a token of 8 KiB and error details; larger metadata is refused at random
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    ("grpc.keepalive_time_ms", 60_000),  # finds dead clients; 2 h by default
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # 5 min by default, which would reject the keepalive of our clients
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.server_handshake_timeout_ms", 10_000),  # 2 min by default
)

_REQUEST_BYTES_MIN: Final = 4096  # requests of reflection contain names

CLIENT_OPTIONS: Final[Options] = (
    # round_robin checks health even with one address. No timeout (fires early in C-core), and no
    # retries (ours go to another replica).
    (
        "grpc.service_config",
        '{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}',
    ),
    ("grpc.service_config_disable_resolution", 1),
    # otherwise channels to one target would share one connection
    ("grpc.use_local_subchannel_pool", 1),
    # a restarted server is found at once, not after up to 2 min
    ("grpc.initial_reconnect_backoff_ms", 100),
    # also the shortest connect timeout: not below a TLS handshake
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # a host that vanished without closing the connection is noticed within eight seconds
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # no idle timeout: the first call after it would have to reconnect
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
    """Options of a port whose methods read requests of at most this size. grpc discards larger ones
    before it assembles them.
    """
    return [
        *SERVER_OPTIONS,
        ("grpc.max_receive_message_length", max(max_request_bytes, _REQUEST_BYTES_MIN)),
    ]


def certificate_name(service: str) -> str:
    """The name in a service's certificate: "payment_rpc" is payment-rpc.paymesh.internal."""
    return f"{service.replace('_', '-')}.paymesh.internal"


def server_credentials(settings: MeshSettings) -> grpc.ServerCredentials | None:
    """Credentials of our port, or None for plaintext. With a CA, clients must present a certificate
    issued by it. Certificates are read again when their files change, so that rotation needs no
    restart.

    Raises:
        PlaintextRefused: no TLS on an address beyond loopback.
        ValueError: certificate and key do not match.
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

    # grpc calls this at every handshake; None keeps the present configuration
    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        configuration = certificates.get()
        if certificates.version == shown:
            return None
        shown = certificates.version
        return configuration

    fetch: Any = changed  # may return None, which the stubs do not allow
    return grpc.dynamic_ssl_server_credentials(
        certificates.value, fetch, require_client_authentication=paths.ca is not None
    )


def _server_configuration(files: CertificateSet) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.cert)], root_certificates=files.roots
    )


def reloaded_client_credentials(settings: MeshSettings) -> Reloaded[grpc.ChannelCredentials] | None:
    """Credentials of our channels, read again when their files change; None for plaintext. With a
    CA of our own we present our certificate and accept that CA only. A channel keeps the
    credentials that it was made with, so its owner must replace it after a change.

    Raises:
        ValueError: certificate and key do not match.
        OSError: a file cannot be read.
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
