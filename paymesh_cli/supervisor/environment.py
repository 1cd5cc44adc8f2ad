"""What `paymesh up` tells each process by its environment, where the user says nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from paymesh_cli.supervisor.installation import CALLERS, OPERATORS, Installation


def own_defaults(
    service: str,
    installation: Installation,
    *,
    gateway: str,
    sandbox: str,
    gateway_port: int,
    absent: Sequence[str],
    providers: Mapping[str, str],
) -> dict[str, str]:
    """The variables of one service.

    Args:
        gateway, sandbox: addresses "host:port".
        gateway_port: its port, for a browser on this machine.
        absent: services that do not run.
        providers: simulated payment provider -> its URL; empty when they do not run.
    """
    found: dict[str, str] = {}
    if service in CALLERS:
        found[f"{service.upper()}_CALLER_KEY_FILE"] = str(installation.caller_key_file(service))
    match service:
        case "sandbox":
            found |= {
                "SANDBOX_API_KEY_FILE": str(installation.secret_file("sandbox_api")),
                "SANDBOX_CALLBACK_SECRET_FILE": str(installation.secret_file("sandbox_callback")),
                "SANDBOX_CALLBACK_URL": f"http://{gateway}/api/v1/callbacks/sandbox",
            }
        case "payment_rpc":
            found |= _of_payments(
                installation,
                gateway=gateway,
                sandbox=sandbox,
                gateway_port=gateway_port,
                providers=providers,
            )
        case "order_rpc":
            found["ORDER_RPC_MERCHANT_DIRECTORY"] = "true"
        case "merchant_rpc":
            found |= {
                "MERCHANT_RPC_PUBLIC_URL": f"http://{gateway}",
                "MERCHANT_RPC_OPERATOR_KEY_FILE": str(installation.caller_key_file(OPERATORS)),
                "MERCHANT_RPC_TOTP_KEY_FILE": str(installation.secret_file("totp")),
                "MERCHANT_RPC_PEPPER_FILE": str(installation.pepper_file),
            }
        case "seckill_rpc":
            found["SECKILL_RPC_MERCHANT_DIRECTORY"] = "true"
            found["SECKILL_RPC_TICKET_SECRET_FILE"] = str(
                installation.secret_file("seckill_ticket")
            )
        case "gateway" if absent:
            found["GATEWAY_ABSENT_SERVICES"] = json.dumps(absent)
        case _:
            pass
    return found


def _of_payments(
    installation: Installation,
    *,
    gateway: str,
    sandbox: str,
    gateway_port: int,
    providers: Mapping[str, str],
) -> dict[str, str]:
    shop = [f"http://{gateway}/", f"http://localhost:{gateway_port}/"]
    found = {
        "PAYMENT_RPC_MERCHANT_DIRECTORY": "true",
        "PAYMENT_RPC_SANDBOX_URL": f"http://{sandbox}",
        "PAYMENT_RPC_ACCOUNT_KEY_FILE": str(installation.account_key_file),
        "PAYMENT_RPC_CALLBACK_BASE_URL": f"http://{gateway}",
        "PAYMENT_RPC_RETURN_URLS": json.dumps({"mall": shop}),
        "PAYMENT_RPC_SANDBOX_API_KEY_FILE": str(installation.secret_file("sandbox_api")),
        "PAYMENT_RPC_SANDBOX_CALLBACK_SECRET_FILE": str(
            installation.secret_file("sandbox_callback")
        ),
    }
    if providers:
        found["PAYMENT_RPC_PROVIDER_URLS"] = json.dumps(dict(providers))
        found["PAYMENT_RPC_BTCPAY_SERVERS"] = json.dumps([providers["btcpay"]])
    return found
