"""Merchants, the people who work for them and their API keys, in one database. Speaks
`paymesh.merchant.v1`.

Where each RPC is implemented, below `usecases/`:

    sign_ups.py        SignUp, ConfirmSignUp; the worker that lets unconfirmed ones expire
    merchants.py       GetMerchant, ListMerchants, ActivateMerchant, SuspendMerchant,
                       ResumeMerchant, CloseMerchant, ListAdminActions
    shop_settings.py   GetSettings, UpdateSettings, ListSettingsVersions, GetMerchantSettings
    members.py         ListMembers, SetMemberRole, RemoveMember
    invitations.py     InviteMember, AcceptInvitation
    logins.py          CreateSession
    sessions.py        RefreshSession, ListSessions, RevokeSession
    second_factor.py   EnrolTotp, ConfirmTotp, DisableTotp
    password_resets.py RequestPasswordReset, ResetPassword
    oidc_logins.py     BeginOidcLogin, FinishOidcLogin
    operators.py       `paymesh operator add`, and its part of AcceptInvitation
    api_keys.py        CreateApiKey, ListApiKeys, RevokeApiKey, RotateApiKey
    key_exchanges.py   ExchangeApiKey, ExchangeApiKeyDigest, ListRevocations; the worker that
                       writes last uses

They share `actions.py` (the log of what people did, in the transaction of the change),
`one_time_links.py` (links that work once) and `mail.py` (messages to people, through the outbox).
"""
