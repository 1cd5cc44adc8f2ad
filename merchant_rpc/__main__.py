"""`python -m merchant_rpc`: the composition root. Settings, database, use cases, servicers,
workers, server; until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

from datetime import timedelta
from secrets import token_bytes

from merchant_rpc.app import RETRY_CONSTRAINTS, MerchantApp, MerchantConfig
from merchant_rpc.oidc import IdentityProvider, OidcClient
from merchant_rpc.passwords import Passwords
from merchant_rpc.people_key import PeopleKey
from merchant_rpc.peppers import Peppers
from merchant_rpc.settings import MerchantSettings
from merchant_rpc.tables import metadata
from mesh import schema_versions
from mesh.clock import Clock, SystemClock
from mesh.database_clock import clock_worker
from mesh.db import open_database
from mesh.dependencies import Dependencies
from mesh.discovery.factory import open_registrar
from mesh.ids import Ids, UlidIds
from mesh.paging import PageTokens
from mesh.process import run_process
from mesh.purge import purge_worker
from mesh.server import MeshServer, serve
from mesh.token_issuers import MERCHANTS, OPERATORS, OwnTokenSigner


async def run(settings: MerchantSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        MeshError: the database is away, or its schema is not the one of this code.
        ValueError, OSError: a setting or a file is not what it should be.
    """
    clock = SystemClock()
    ids = UlidIds(clock)
    db = open_database(
        settings.database_url,
        metadata,
        pool_size=settings.database_pool_size,
        retry_constraints=RETRY_CONSTRAINTS,
    )
    await schema_versions.check_current("merchant_rpc", db.engine)
    server = MeshServer(settings, clock=clock, ids=ids)
    passwords = Passwords(
        memory_kib=settings.password_memory_mib * 1024,
        rounds=settings.password_rounds,
        lanes=settings.password_lanes,
    )
    provider = _identity_provider(settings, clock=clock)
    app = MerchantApp(
        db=db,
        clock=clock,
        ids=ids,
        page_tokens=PageTokens.from_settings(settings),
        signer=_signer(settings, clock=clock, ids=ids),
        operator_signer=_operator_signer(settings, clock=clock, ids=ids),
        peppers=_peppers(settings),
        passwords=passwords,
        people_key=_people_key(settings),
        identity_provider=provider,
        random_bytes=token_bytes,
        config=MerchantConfig(
            public_url=settings.public_url,
            logs_mail=settings.is_development,
            scan_interval_seconds=settings.scan_interval_seconds,
            reserved_merchant_ids=settings.reserved_merchant_ids,
            oidc_needs_totp=settings.oidc_needs_totp,
        ),
    )
    app.add_to(server)
    purging = purge_worker(
        db=db,
        clock=clock,
        retention=timedelta(days=settings.delivered_retention_days),
        has_inbox=False,
    )
    dependencies = Dependencies({"database": db.check}, server.set_usable)
    await serve(
        settings,
        server,
        open_registrar(settings),
        closers=[
            *([] if provider is None else [provider.close]),
            passwords.close,
            db.close,
        ],
        workers=[
            *app.workers,
            clock_worker(db, clock=clock, watch=server.clock_watch),
            purging,
            dependencies,
        ],
    )


def _signer(settings: MerchantSettings, *, clock: Clock, ids: Ids) -> OwnTokenSigner:
    if settings.caller_key_file is None:
        raise ValueError("caller_key_file is not set: tokens of merchants are signed with it")
    return OwnTokenSigner.of_file(MERCHANTS, settings.caller_key_file, clock=clock, ids=ids)


def _peppers(settings: MerchantSettings) -> Peppers:
    if settings.pepper_file is None:
        raise ValueError("pepper_file is not set: digests of API keys are made with it")
    return Peppers.of_file(settings.pepper_file)


def _operator_signer(
    settings: MerchantSettings, *, clock: Clock, ids: Ids
) -> OwnTokenSigner | None:
    if settings.operator_key_file is None:
        return None
    return OwnTokenSigner.of_file(OPERATORS, settings.operator_key_file, clock=clock, ids=ids)


def _people_key(settings: MerchantSettings) -> PeopleKey:
    if settings.totp_key_file is None:
        raise ValueError("totp_key_file is not set: it protects what people log in with")
    return PeopleKey.of_file(settings.totp_key_file, random_bytes=token_bytes)


def _identity_provider(settings: MerchantSettings, *, clock: Clock) -> IdentityProvider | None:
    if not settings.oidc_issuer:
        return None
    client = OidcClient(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret_file=settings.oidc_client_secret_file,
        scopes=settings.oidc_scopes,
        redirect_url=settings.public_url.rstrip("/") + "/console/oidc",
    )
    return IdentityProvider(client, clock=clock)


def main() -> None:
    """Reads the settings and serves."""
    run_process(MerchantSettings, run)


if __name__ == "__main__":
    main()
