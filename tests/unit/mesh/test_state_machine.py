"""A state machine is declared once, completely, and nobody changes it."""

from __future__ import annotations

import pytest

from mesh.state_machine import Described, StateMachine


class Lamp(Described):
    OFF = "OFF", "dark"
    ON = "ON", "bright"
    BROKEN = "BROKEN", "dark for ever"


class Verb(Described):
    SWITCH = "SWITCH", "somebody pressed it"


LAMP = StateMachine(
    "Lamp",
    Lamp,
    ((Lamp.OFF, Verb.SWITCH, Lamp.ON), (Lamp.ON, "it fell", Lamp.BROKEN)),
    introduction="Of a desk.",
)


def test_what_is_not_declared_is_not_allowed() -> None:
    allowed = {(a, b) for a in Lamp for b in Lamp if LAMP.allows(a, b)}
    assert allowed == {(Lamp.OFF, Lamp.ON), (Lamp.ON, Lamp.BROKEN)}
    assert LAMP.after(Lamp.OFF, Verb.SWITCH) is Lamp.ON
    assert LAMP.after(Lamp.BROKEN, Verb.SWITCH) is None


def test_every_step_has_its_cause() -> None:
    assert dict(LAMP.causes) == {
        (Lamp.OFF, Lamp.ON): "SWITCH: somebody pressed it",
        (Lamp.ON, Lamp.BROKEN): "it fell",
    }


def test_a_member_is_its_value_and_knows_its_meaning() -> None:
    assert (Lamp("ON"), Lamp.ON.value, f"{Lamp.ON}") == (Lamp.ON, "ON", "ON")
    assert [state.meaning for state in Lamp] == ["dark", "bright", "dark for ever"]


def test_a_machine_cannot_be_changed_at_run_time() -> None:
    with pytest.raises(TypeError):
        LAMP.causes[Lamp.BROKEN, Lamp.ON] = "repaired"  # type: ignore[index]


@pytest.mark.parametrize(
    "steps",
    [
        ((Lamp.OFF, "", Lamp.ON),),
        ((Lamp.OFF, Verb.SWITCH, Lamp.ON), (Lamp.OFF, "again", Lamp.ON)),
    ],
)
def test_a_step_has_exactly_one_cause(steps: tuple[tuple[Lamp, str, Lamp], ...]) -> None:
    with pytest.raises(ValueError, match="OFF to ON"):
        StateMachine("Lamp", Lamp, steps, introduction="")


def test_a_state_without_a_meaning_is_refused() -> None:
    class Silent(Described):
        A = "A"

    with pytest.raises(ValueError, match="A must say"):
        StateMachine("Silent", Silent, (), introduction="")
