"""What must hold within merchant_rpc: siblings go with their merchants, settings are the newest
version, somebody owns each merchant, and what ended has ended.

Each check is one statement per range of a table, so it sees one moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import ColumnElement, String, and_, func, literal, or_, select

from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.merchant import TEST_SUFFIX, MerchantState
from merchant_rpc.domain.one_time_link import LIFETIME
from merchant_rpc.tables import (
    ACTION_LOG,
    ADMIN_ACTION,
    API_KEY,
    MEMBERSHIP,
    MERCHANT,
    MERCHANT_SETTING,
    ONE_TIME_LINK,
    SESSION,
    metadata,
)
from merchant_rpc.usecases.sign_ups import GRACE
from mesh.audit import OVERDUE, AuditTolerance, Violation
from mesh.audit.queries import Check, check_logs, check_outbox, check_rows, run_checks
from mesh.db import Database

_M, _S, _P, _L = MERCHANT.c, MERCHANT_SETTING.c, MEMBERSHIP.c, ONE_TIME_LINK.c
_BY_MERCHANT = (_M.merchant_id,)
_STEPS = (
    "ConfirmSignUp",
    "ActivateMerchant",
    "SuspendMerchant",
    "ResumeMerchant",
    "CloseMerchant",
)
_HAS_BEGUN = and_(_M.is_test.is_(False), _M.state != MerchantState.PENDING_EMAIL)


async def violations(db: Database, tolerance: AuditTolerance) -> AsyncIterator[Violation]:
    """Everything that does not hold."""
    checks = (
        *_siblings(),
        *_states(tolerance),
        *_settings(),
        *_people(),
        *_ended(),
        *_links(tolerance),
    )
    for part in (
        check_rows(db, metadata, words={}, documents=(_L.payload, _S.body)),
        check_outbox(db, tolerance),
        check_logs(db, ACTION_LOG),
        run_checks(db, checks),
    ):
        async for violation in part:
            yield violation


def _siblings() -> list[Check]:
    """Each merchant has one test sibling, which goes with it; no sibling is alone."""
    other = MERCHANT.alias()
    sibling = and_(
        other.c.merchant_id == _M.merchant_id.concat(TEST_SUFFIX), other.c.is_test.is_(True)
    )
    base = and_(
        other.c.merchant_id.concat(TEST_SUFFIX) == _M.merchant_id, other.c.is_test.is_(False)
    )
    of_both = MERCHANT.join(other, sibling)
    ended = (MerchantState.SUSPENDED, MerchantState.CLOSED)
    return [
        Check(
            name="sibling_exists",
            query=select(_M.merchant_id, _M.state).where(
                _HAS_BEGUN, ~select(other.c.merchant_id).where(sibling).exists()
            ),
            by=_BY_MERCHANT,
            detail="it is {state} and has no test sibling",
        ),
        Check(
            name="sibling_of_merchant",
            query=select(_M.merchant_id).where(
                _M.is_test.is_(True), ~select(other.c.merchant_id).where(base).exists()
            ),
            by=_BY_MERCHANT,
            detail="it is the test sibling of no merchant",
        ),
        Check(
            name="sibling_follows",
            query=select(_M.merchant_id, _M.state, other.c.state.label("siblings"))
            .select_from(of_both)
            .where(
                _HAS_BEGUN,
                or_(
                    and_(_M.state.in_(ended), other.c.state != _M.state),
                    and_(_M.state.not_in(ended), other.c.state != MerchantState.TEST_ONLY),
                ),
            ),
            by=_BY_MERCHANT,
            detail="it is {state}, and its test sibling is {siblings}",
        ),
    ]


def _states(tolerance: AuditTolerance) -> list[Check]:
    """A merchant is what its log says; a sign-up that nobody confirmed is gone after a day."""
    said = (
        select(ADMIN_ACTION.c.after_json)
        .where(ADMIN_ACTION.c.merchant_id == _M.merchant_id, ADMIN_ACTION.c.method.in_(_STEPS))
        .order_by(ADMIN_ACTION.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    state = literal('"state":"', String).concat(_M.state).concat('"')
    return [
        Check(
            name="log_leads_here",
            query=select(
                _M.merchant_id, _M.state, func.coalesce(said, "nothing").label("said")
            ).where(_HAS_BEGUN, func.instr(func.coalesce(said, ""), state) == 0),
            by=_BY_MERCHANT,
            detail="it is {state}, and the last step in the log of actions says {said}",
        ),
        Check(
            name="sign_up_late",
            query=select(_M.merchant_id, _M.state).where(
                _M.state == MerchantState.PENDING_EMAIL,
                _M.created_at < tolerance.before(OVERDUE) - LIFETIME - GRACE,
            ),
            by=_BY_MERCHANT,
            detail="it is still {state} a day after it signed up",
        ),
    ]


def _settings() -> list[Check]:
    """The version in force is the newest one, and none is missing below it."""
    of_merchant = _S.merchant_id == _M.merchant_id
    newest = select(func.coalesce(func.max(_S.version), 0)).where(of_merchant).scalar_subquery()
    count = select(func.count(_S.version)).where(of_merchant).scalar_subquery()
    return [
        Check(
            name="settings_in_force",
            query=select(
                _M.merchant_id,
                _M.settings_version,
                newest.label("newest"),
                count.label("versions"),
            ).where(or_(_M.settings_version != newest, newest != count)),
            by=_BY_MERCHANT,
            detail="version {settings_version} is in force, the newest of {versions} is {newest}",
        ),
    ]


def _people() -> list[Check]:
    """Somebody owns each merchant; nobody works for a test sibling."""
    owner = select(_P.member_id).where(
        _P.merchant_id == _M.merchant_id, _P.role == MemberRole.OWNER
    )
    return [
        Check(
            name="merchant_has_owner",
            query=select(_M.merchant_id, _M.state).where(_HAS_BEGUN, ~owner.exists()),
            by=_BY_MERCHANT,
            detail="it is {state} and nobody owns it",
        ),
        Check(
            name="member_of_merchant",
            query=select(_P.member_id, _P.merchant_id, _M.state)
            .select_from(MEMBERSHIP.join(MERCHANT, _M.merchant_id == _P.merchant_id))
            .where(or_(_M.is_test.is_(True), _M.state == MerchantState.PENDING_EMAIL)),
            by=(_P.merchant_id, _P.member_id),
            detail="it works for {merchant_id}, which has no people of its own",
        ),
    ]


def _ended() -> list[Check]:
    """Nothing lives of a closed merchant."""
    closed = _M.state == MerchantState.CLOSED
    key, session = API_KEY.c, SESSION.c
    return [
        Check(
            name="closed_has_no_key",
            query=select(key.key_id, key.merchant_id)
            .select_from(API_KEY.join(MERCHANT, _M.merchant_id == key.merchant_id))
            .where(closed, key.revoked_at.is_(None)),
            by=(key.key_id,),
            detail="it lives, and merchant {merchant_id} is closed",
        ),
        Check(
            name="closed_has_no_session",
            query=select(session.session_id, session.merchant_id)
            .select_from(SESSION.join(MERCHANT, _M.merchant_id == session.merchant_id))
            .where(closed, session.revoked_at.is_(None)),
            by=(session.session_id,),
            detail="it lives, and merchant {merchant_id} is closed",
        ),
    ]


def _links(tolerance: AuditTolerance) -> list[Check]:
    """Of one kind and for one subject only the last link works."""
    other = ONE_TIME_LINK.alias()

    def works(link: Any) -> ColumnElement[bool]:
        return and_(link.used_at.is_(None), link.expires_at > tolerance.now)

    return [
        Check(
            name="one_link_works",
            query=select(_L.subject, _L.kind).where(
                works(_L),
                select(other.c.token_digest)
                .where(
                    other.c.kind == _L.kind,
                    other.c.subject == _L.subject,
                    other.c.token_digest < _L.token_digest,
                    works(other.c),
                )
                .exists(),
            ),
            by=(_L.token_digest,),
            detail="several links of kind {kind} work for it",
        ),
    ]
