"""What happens when merchant_rpc dies at each of its points: one story per point, told by a client
at the gateway who makes the same call again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from tests.e2e.crashes import Crash, Scenario, attempt
from tests.e2e.mesh_processes import Answer, Person, wait_until

Story = Callable[[Crash], None]
PASSWORD = "correct horse battery"
SCENARIOS: list[Scenario] = []


def dies_on_both_sides_of(name: str) -> Callable[[Story], Story]:
    """The story is told for the points before and after the commit of a call."""
    return dies_at(f"merchant.{name}.before_commit", f"merchant.{name}.after_commit")


def dies_at(*points: str, variant: str = "") -> Callable[[Story], Story]:
    """The story is told once for each of these points."""

    def register(story: Story) -> Story:
        SCENARIOS.extend(
            Scenario(point=point, variant=variant, service="merchant_rpc", story=story)
            for point in points
        )
        return story

    return register


def answered(call: Callable[[], Answer]) -> Answer:
    """The same call, until somebody answers. 202 is an answer here: a mail is on its way."""

    def well() -> Answer | None:
        answer = attempt(call)
        return answer if answer is not None and answer.status < 500 else None

    return wait_until(well, "answer to the same call")


class Shop:
    """A merchant of one story, and the person who signs it up."""

    def __init__(self, crash: Crash) -> None:
        self.crash = crash
        self._numbers = itertools.count(1)
        number = crash.mesh.shops = crash.mesh.shops + 1
        self.merchant_id = f"shop{number}"
        self.email = f"owner@{self.merchant_id}.example"
        self.anybody = crash.mesh.processes.holder("")
        self.operator = crash.mesh.operator
        self.owner = self.anybody  # until he logs in
        # all of them sign up from this machine; from one network five may in an hour
        crash.mesh.execute("merchant_rpc", "DELETE FROM login_failure")

    def open(self) -> Shop:
        """Signs up, confirms and logs in."""
        assert self.sign_up().status == 202
        assert self.confirm().status == 201
        self.owner = self.log_in()
        return self

    def sign_up(self) -> Answer:
        body = {
            "email": self.email,
            "name": "A shop",
            "merchant_id": self.merchant_id,
            "default_currency": "USD",
        }
        return self.anybody.post("/api/v1/merchants:sign-up", body)

    def confirm(self) -> Answer:
        body = {"token": self.mailed("SIGN_UP"), "password": PASSWORD}
        return self.anybody.post("/api/v1/merchants:confirm", body)

    def session(self, password: str = PASSWORD) -> Answer:
        return self.anybody.post("/api/v1/sessions", {"email": self.email, "password": password})

    def log_in(self, password: str = PASSWORD) -> Person:
        answer = self.session(password)
        assert answer.status == 201, answer.text
        return self.crash.mesh.processes.holder(answer.data["access_token"])

    def make_key(self) -> Answer:
        return self.owner.post("/api/v1/api-keys", {"kind": "SECRET", "name": "web shop"})

    def keys(self) -> list[dict[str, Any]]:
        """Newest first."""
        return list(self.owner.get("/api/v1/api-keys").data["api_keys"])

    def members(self) -> list[dict[str, Any]]:
        return list(self.owner.get("/api/v1/members").data["members"])

    def path(self, more: str) -> str:
        return f"/api/v1/merchants/{self.merchant_id}{more}"

    def step(self, verb: str) -> Answer:
        return self.operator.post(self.path(f"/{verb}"), {"reason": "looks odd"})

    def logged(self, method: str) -> int:
        """How often the log of actions has a method."""
        answer = self.operator.get(self.path("/actions"))
        return [action["method"] for action in answer.data["actions"]].count(method)

    def orders_with(self, key: str) -> Answer:
        """One more order of its own. Until it has a final answer:
        order_rpc reaches merchant_rpc again a moment later than the gateway does.
        """
        item = {"sku_id": "A-MUG", "product_name": "A mug", "quantity": 1, "unit_price": "9.00"}
        body = {"order_no": f"A-{next(self._numbers)}", "currency": "USD", "items": [item]}
        server = self.crash.mesh.processes.holder(key)
        return answered(lambda: server.post("/api/v1/orders", body))

    def invite(self) -> Answer:
        body = {"email": self.clerk, "role": "SUPPORT"}
        return self.owner.post("/api/v1/members", body)

    def accept(self) -> Answer:
        body = {"token": self.mailed("INVITATION"), "password": PASSWORD}
        return self.anybody.post("/api/v1/members:accept", body)

    def with_clerk(self) -> str:
        """Somebody joins; his member id."""
        assert self.invite().status == 202
        assert self.accept().status == 201
        return next(each["member_id"] for each in self.members() if each["role"] == "SUPPORT")

    @property
    def clerk(self) -> str:
        return f"clerk@{self.merchant_id}.example"

    def mailed(self, template: str) -> str:
        """The token of the link that was mailed last to a person of the shop."""

        def look() -> str:
            if any("merchant_rpc: outbox" in row for row in self.crash.mesh.unfinished()):
                return ""  # a later one, with which this one ends, is on its way
            mails = [
                json.loads(line)
                for text in self.crash.mesh.processes.logs_of("merchant_rpc")
                for line in text.splitlines()
                if '"event":"mail"' in line
            ]
            links = [
                mail["link"]
                for mail in mails
                if mail["address"] in (self.email, self.clerk) and mail["template"] == template
            ]
            return str(links[-1].partition("token=")[2]) if links else ""

        return str(wait_until(look, f"mail {template}"))

    def was_done(self) -> bool:
        """Whether the call that was struck was committed."""
        return not (self.crash.is_kill and self.crash.point.endswith("before_commit"))


@dies_on_both_sides_of("sign_up")
@dies_at(
    "outbox.relay.after_claim",
    "outbox.relay.after_send",
    "outbox.relay.after_settle",
    variant="mail",
)
def a_sign_up_takes_its_id_and_its_mail_goes(crash: Crash) -> None:
    shop = Shop(crash)
    crash.strike(shop.sign_up)
    again = answered(shop.sign_up)
    assert again.status == (409 if shop.was_done() else 202), again.text
    assert shop.confirm().status == 201
    shop.owner = shop.log_in()
    assert shop.orders_with(shop.make_key().data["key"]).status in (200, 201)


@dies_on_both_sides_of("confirm")
def a_merchant_begins_once(crash: Crash) -> None:
    shop = Shop(crash)
    assert shop.sign_up().status == 202
    crash.strike(shop.confirm)
    again = answered(shop.confirm)
    assert again.status == (410 if shop.was_done() else 201), again.text
    shop.owner = shop.log_in()
    assert [member["role"] for member in shop.members()] == ["OWNER"]
    assert shop.logged("ConfirmSignUp") == 1


@dies_on_both_sides_of("log_in")
def a_log_in_is_made_again(crash: Crash) -> None:
    shop = Shop(crash)
    assert (shop.sign_up().status, shop.confirm().status) == (202, 201)
    crash.strike(shop.session)
    again = answered(shop.session)
    assert again.status == 201, again.text
    owner = crash.mesh.processes.holder(again.data["access_token"])
    sessions = owner.get("/api/v1/sessions").data["sessions"]
    assert len(sessions) == (2 if shop.was_done() else 1)


@dies_on_both_sides_of("reset")
def a_password_is_set_once(crash: Crash) -> None:
    shop = Shop(crash).open()
    asked = shop.anybody.post("/api/v1/password:request-reset", {"email": shop.email})
    assert asked.status == 202, asked.text
    body = {"token": shop.mailed("PASSWORD_RESET"), "password": f"{PASSWORD} anew"}

    def reset() -> Answer:
        return shop.anybody.post("/api/v1/password:reset", body)

    crash.strike(reset)
    again = answered(reset)
    assert again.status == (410 if shop.was_done() else 200), again.text
    assert shop.session().status == 401
    shop.log_in(body["password"])


@dies_on_both_sides_of("key_create")
def a_key_that_was_shown_works(crash: Crash) -> None:
    shop = Shop(crash).open()
    crash.strike(shop.make_key)
    again = answered(shop.make_key)
    assert again.status == 201, again.text
    assert shop.orders_with(again.data["key"]).status in (200, 201)
    # one that nobody was shown is there to be seen and revoked
    assert len(shop.keys()) == shop.logged("CreateApiKey") == (2 if shop.was_done() else 1)


@dies_on_both_sides_of("key_rotate")
def a_key_is_rotated_and_the_old_one_lives_on_for_a_while(crash: Crash) -> None:
    shop = Shop(crash).open()
    old = shop.make_key().data

    def rotate() -> Answer:
        path = f"/api/v1/api-keys/{old['api_key']['key_id']}/rotate"
        return shop.owner.post(path, {"overlap_minutes": 60})

    crash.strike(rotate)
    again = answered(rotate)
    assert again.status == 201, again.text
    assert shop.orders_with(again.data["key"]).status in (200, 201)
    assert shop.orders_with(old["key"]).status in (200, 201)
    assert len(shop.keys()) == 1 + shop.logged("RotateApiKey") == (3 if shop.was_done() else 2)


@dies_on_both_sides_of("key_revoke")
def a_key_that_was_revoked_pays_nothing(crash: Crash) -> None:
    shop = Shop(crash).open()
    made = shop.make_key().data
    assert shop.orders_with(made["key"]).status in (200, 201)

    def revoke() -> Answer:
        return shop.owner.delete(f"/api/v1/api-keys/{made['api_key']['key_id']}")

    crash.strike(revoke)
    again = answered(revoke)
    assert again.status == 200, again.text
    wait_until(lambda: shop.orders_with(made["key"]).status == 401, "refusal of the key")
    assert shop.logged("RevokeApiKey") == 1


@dies_on_both_sides_of("step")
def a_suspension_holds_and_ends(crash: Crash) -> None:
    shop = Shop(crash).open()
    key = shop.make_key().data["key"]
    crash.strike(lambda: shop.step("suspend"))
    again = answered(lambda: shop.step("suspend"))
    assert (again.status, again.data["state"]) == (200, "SUSPENDED"), again.text
    wait_until(lambda: shop.orders_with(key).code == "A0364", "refusal of new orders")
    assert shop.logged("SuspendMerchant") == 1
    assert shop.step("resume").data["state"] == "TEST_ONLY"
    wait_until(lambda: shop.orders_with(key).status in (200, 201), "end of the suspension")


@dies_on_both_sides_of("settings")
def settings_change_once(crash: Crash) -> None:
    shop = Shop(crash).open()
    body = {"settings": {"channels": ["sandbox"]}, "read_version": 0, "reason": "a sale"}

    def change() -> Answer:
        return shop.operator.put(shop.path("/settings"), body)

    crash.strike(change)
    again = answered(change)
    assert again.status == (409 if shop.was_done() else 200), again.text
    versions = shop.operator.get(shop.path("/settings/versions")).data["versions"]
    assert [str(version["version"]) for version in versions] == ["1"]


@dies_on_both_sides_of("invite")
def an_invitation_lets_somebody_in(crash: Crash) -> None:
    shop = Shop(crash).open()
    crash.strike(shop.invite)
    assert answered(shop.invite).status == 202
    assert shop.accept().status == 201
    assert sorted(member["role"] for member in shop.members()) == ["OWNER", "SUPPORT"]


@dies_on_both_sides_of("accept")
def somebody_joins_once(crash: Crash) -> None:
    shop = Shop(crash).open()
    assert shop.invite().status == 202
    crash.strike(shop.accept)
    again = answered(shop.accept)
    assert again.status == (410 if shop.was_done() else 201), again.text
    assert sorted(member["role"] for member in shop.members()) == ["OWNER", "SUPPORT"]
    assert shop.logged("AcceptInvitation") == 1


@dies_on_both_sides_of("member_role")
def a_role_changes_once(crash: Crash) -> None:
    shop = Shop(crash).open()
    member_id = shop.with_clerk()

    def change() -> Answer:
        return shop.owner.put(f"/api/v1/members/{member_id}/role", {"role": "VIEWER"})

    crash.strike(change)
    again = answered(change)
    assert (again.status, again.data["role"]) == (200, "VIEWER"), again.text
    assert shop.logged("SetMemberRole") == 1


@dies_on_both_sides_of("member_remove")
def somebody_leaves_once(crash: Crash) -> None:
    shop = Shop(crash).open()
    member_id = shop.with_clerk()

    def remove() -> Answer:
        return shop.owner.delete(f"/api/v1/members/{member_id}")

    crash.strike(remove)
    assert answered(remove).status == 200
    assert [member["role"] for member in shop.members()] == ["OWNER"]
    assert shop.logged("RemoveMember") == 1
