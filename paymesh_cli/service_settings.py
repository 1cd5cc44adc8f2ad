"""The settings of every process of the mesh, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.settings import GatewaySettings
from merchant_rpc.settings import MerchantSettings
from mesh.settings import MeshSettings
from order_rpc.settings import OrderSettings
from payment_rpc.settings import PaymentSettings
from sandbox.providers.settings import ProviderSettings
from sandbox.settings import SandboxSettings
from seckill_rpc.settings import SeckillSettings

SETTINGS: Final[Mapping[str, type[MeshSettings]]] = {
    "payment_rpc": PaymentSettings,
    "order_rpc": OrderSettings,
    "seckill_rpc": SeckillSettings,
    "merchant_rpc": MerchantSettings,
    "gateway": GatewaySettings,
    "sandbox": SandboxSettings,
    "providers": ProviderSettings,
}
