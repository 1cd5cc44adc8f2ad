"""`paymesh migrate`: brings the databases to the schema of this code."""

from __future__ import annotations

import click
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mesh import migrations
from paymesh_cli.grants import grant
from paymesh_cli.options import installation_option, load_settings, services_option
from paymesh_cli.supervisor.installation import Installation, InstallationUnusable


@click.command()
@installation_option
@services_option
@click.option("--database-url", help="Instead of <SERVICE>_DATABASE_URL; with one --service only.")
@click.option(
    "--grant-to-services",
    is_flag=True,
    help="Then give the MySQL user named like each service the least rights that it needs.",
)
def migrate(
    installation: Installation,
    services: tuple[str, ...],
    database_url: str | None,
    *,
    grant_to_services: bool,
) -> None:
    """Brings the databases to the newest schema; creates it in empty ones. Running it again changes
    nothing.
    """
    if database_url and len(services) != 1:
        raise click.UsageError("--database-url belongs to one service: name it with --service")
    try:
        installation.prepare()
    except InstallationUnusable as problem:
        raise click.ClickException(str(problem)) from None
    for service in services:
        url = database_url or load_settings(service, var_dir=installation.var_dir).database_url
        try:
            shown = make_url(url).render_as_string(hide_password=True)
            migrations.upgrade(service, url)
            if grant_to_services:
                grant(service, url, service)
        except ArgumentError as problem:
            raise click.ClickException(
                f"{service}: the database URL is not usable: {problem}"
            ) from None
        except ValueError as problem:
            raise click.ClickException(f"{service}: {problem}") from None
        except (SQLAlchemyError, migrations.MigrationBusy, OSError) as problem:
            raise click.ClickException(f"{service}: {shown}: {problem}") from None
        click.echo(f"{service}: {shown} is up to date")
