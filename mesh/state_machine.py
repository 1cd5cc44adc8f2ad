"""State machines, each declared once: its states with their meaning, its steps with their cause.

The domain refuses a step that is not declared, tables.py lists the states in its CHECKs, and
tools/build_states.py draws docs/states.md, all from the one declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Generic, Self, TypeVar


class Described(StrEnum):
    """An enum whose members say what they mean: `NAME = "VALUE", "meaning"`."""

    _value_: str
    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """`meaning` is only left out to look a member up by its value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


S = TypeVar("S", bound=Described)


class StateMachine(Generic[S]):
    """The steps that an entity may take; no other exists. Cannot be changed once it is made.

    Attributes:
        causes: (from, to) -> why that step is taken.
    """

    def __init__(
        self, title: str, states: type[S], steps: Iterable[tuple[S, str, S]], *, introduction: str
    ) -> None:
        """
        Args:
            steps: (from, cause, to); a cause is a verb (a Described) or a sentence.
            title, introduction: of its section in docs/states.md.

        Raises:
            ValueError: a step is there twice, or a state or a step does not say what it means.
        """
        self.title = title
        self.states = states
        self.introduction = introduction
        causes: dict[tuple[S, S], str] = {}
        by_verb: dict[tuple[S, str], S] = {}
        for source, cause, target in steps:
            if not cause or (source, target) in causes:
                raise ValueError(f"{title}: {source} to {target} needs one cause")
            described = f"{cause}: {cause.meaning}" if isinstance(cause, Described) else cause
            causes[source, target] = described
            by_verb[source, cause] = target
        if silent := [state for state in states if not state.meaning]:
            raise ValueError(f"{title}: {', '.join(silent)} must say what they mean")
        self.causes: Mapping[tuple[S, S], str] = MappingProxyType(causes)
        self._by_verb = by_verb

    def allows(self, source: S, target: S) -> bool:
        """Whether there is a step from one state to the other."""
        return (source, target) in self.causes

    def after(self, source: S, verb: Described) -> S | None:
        """The state that a verb leads to; None when it is not possible here."""
        return self._by_verb.get((source, verb))
