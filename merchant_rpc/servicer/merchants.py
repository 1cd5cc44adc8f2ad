"""MerchantService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.merchant.v1 import merchant_pb2, merchant_pb2_grpc

from merchant_rpc.servicer.messages import (
    STATES,
    STATES_OF_MESSAGES,
    action_message,
    merchant_message,
    settings_message,
    settings_of,
    version_message,
)
from merchant_rpc.usecases.merchants import ListMerchants, Merchants, MerchantStep
from merchant_rpc.usecases.shop_settings import SettingsOfShops, UpdateSettings
from merchant_rpc.usecases.sign_ups import SignUp, SignUps
from mesh.call import current_caller, current_client_address


class MerchantServicer(merchant_pb2_grpc.MerchantServiceServicer):
    """Who sells here, and what it decided for its shop."""

    def __init__(self, merchants: Merchants, sign_ups: SignUps, settings: SettingsOfShops) -> None:
        self._merchants = merchants
        self._sign_ups = sign_ups
        self._settings = settings

    async def SignUp(
        self, request: merchant_pb2.SignUpRequest, context: Any
    ) -> merchant_pb2.SignUpResponse:
        """Begins a sign-up."""
        await self._sign_ups.sign_up(
            SignUp(
                email=request.email,
                name=request.name,
                merchant_id=request.merchant_id,
                country=request.country,
                default_currency=request.default_currency,
                time_zone=request.time_zone,
                client_address=current_client_address(),
            )
        )
        return merchant_pb2.SignUpResponse()

    async def ConfirmSignUp(
        self, request: merchant_pb2.ConfirmSignUpRequest, context: Any
    ) -> merchant_pb2.ConfirmSignUpResponse:
        """Ends a sign-up."""
        merchant = await self._sign_ups.confirm(
            token=request.token,
            password=request.password,
            client_address=current_client_address(),
            caller=current_caller(),
        )
        return merchant_pb2.ConfirmSignUpResponse(merchant=merchant_message(merchant))

    async def GetMerchant(
        self, request: merchant_pb2.GetMerchantRequest, context: Any
    ) -> merchant_pb2.GetMerchantResponse:
        """Shows a merchant."""
        merchant = await self._merchants.get(
            merchant_id=request.merchant_id, caller=current_caller()
        )
        return merchant_pb2.GetMerchantResponse(merchant=merchant_message(merchant))

    async def ListMerchants(
        self, request: merchant_pb2.ListMerchantsRequest, context: Any
    ) -> merchant_pb2.ListMerchantsResponse:
        """Lists merchants, newest first."""
        found, next_page_token = await self._merchants.list_merchants(
            ListMerchants(
                state=STATES_OF_MESSAGES.get(request.state),
                page_size=request.page_size,
                page_token=request.page_token,
            )
        )
        return merchant_pb2.ListMerchantsResponse(
            merchants=[merchant_message(merchant) for merchant in found],
            next_page_token=next_page_token,
        )

    async def ActivateMerchant(
        self, request: merchant_pb2.ActivateMerchantRequest, context: Any
    ) -> merchant_pb2.ActivateMerchantResponse:
        """Lets a merchant take real money."""
        merchant = await self._merchants.activate(
            _step("ActivateMerchant", request), current_caller()
        )
        return merchant_pb2.ActivateMerchantResponse(merchant=merchant_message(merchant))

    async def SuspendMerchant(
        self, request: merchant_pb2.SuspendMerchantRequest, context: Any
    ) -> merchant_pb2.SuspendMerchantResponse:
        """Refuses what is new of a merchant."""
        merchant = await self._merchants.suspend(
            _step("SuspendMerchant", request), current_caller()
        )
        return merchant_pb2.SuspendMerchantResponse(merchant=merchant_message(merchant))

    async def ResumeMerchant(
        self, request: merchant_pb2.ResumeMerchantRequest, context: Any
    ) -> merchant_pb2.ResumeMerchantResponse:
        """Ends a suspension."""
        merchant = await self._merchants.resume(_step("ResumeMerchant", request), current_caller())
        return merchant_pb2.ResumeMerchantResponse(merchant=merchant_message(merchant))

    async def CloseMerchant(
        self, request: merchant_pb2.CloseMerchantRequest, context: Any
    ) -> merchant_pb2.CloseMerchantResponse:
        """Ends a merchant for ever."""
        merchant = await self._merchants.close(_step("CloseMerchant", request), current_caller())
        return merchant_pb2.CloseMerchantResponse(merchant=merchant_message(merchant))

    async def GetSettings(
        self, request: merchant_pb2.GetSettingsRequest, context: Any
    ) -> merchant_pb2.GetSettingsResponse:
        """Shows the settings in force."""
        version = await self._settings.get(merchant_id=request.merchant_id, caller=current_caller())
        return merchant_pb2.GetSettingsResponse(version=version_message(version))

    async def UpdateSettings(
        self, request: merchant_pb2.UpdateSettingsRequest, context: Any
    ) -> merchant_pb2.UpdateSettingsResponse:
        """Writes a new version of the settings."""
        version = await self._settings.update(
            UpdateSettings(
                merchant_id=request.merchant_id,
                settings=settings_of(request.settings),
                read_version=request.read_version,
                reason=request.reason,
            ),
            current_caller(),
        )
        return merchant_pb2.UpdateSettingsResponse(version=version_message(version))

    async def ListSettingsVersions(
        self, request: merchant_pb2.ListSettingsVersionsRequest, context: Any
    ) -> merchant_pb2.ListSettingsVersionsResponse:
        """Lists versions, newest first."""
        versions, next_page_token = await self._settings.list_versions(
            merchant_id=request.merchant_id,
            page_size=request.page_size,
            page_token=request.page_token,
            caller=current_caller(),
        )
        return merchant_pb2.ListSettingsVersionsResponse(
            versions=[version_message(version) for version in versions],
            next_page_token=next_page_token,
        )

    async def GetMerchantSettings(
        self, request: merchant_pb2.GetMerchantSettingsRequest, context: Any
    ) -> merchant_pb2.GetMerchantSettingsResponse:
        """Tells a service what it must know of a merchant."""
        known = await self._settings.for_service(request.merchant_id)
        if known is None:
            return merchant_pb2.GetMerchantSettingsResponse(is_known=False)
        merchant, version = known
        return merchant_pb2.GetMerchantSettingsResponse(
            is_known=True,
            state=STATES[merchant.state],
            name=merchant.name,
            is_test=merchant.is_test,
            settings_version=version.version,
            settings=settings_message(version.settings),
        )

    async def ListAdminActions(
        self, request: merchant_pb2.ListAdminActionsRequest, context: Any
    ) -> merchant_pb2.ListAdminActionsResponse:
        """Lists what was done, newest first."""
        actions, next_page_token = await self._merchants.list_actions(
            merchant_id=request.merchant_id,
            page_size=request.page_size,
            page_token=request.page_token,
            caller=current_caller(),
        )
        return merchant_pb2.ListAdminActionsResponse(
            actions=[action_message(action) for action in actions],
            next_page_token=next_page_token,
        )


def _step(method: str, request: Any) -> MerchantStep:
    return MerchantStep(merchant_id=request.merchant_id, method=method, reason=request.reason)
