"""What may go to a model and what may come back: the rows of the tables of guardrails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Phase = Literal["input", "output"]
"""Whether a guardrail looks at the request or at the answer."""
Behavior = Literal["block", "mask", "log", "none"]
"""What is done with what it finds: refuse the call, take it out of the text, only write it down, or nothing."""


@dataclass(frozen=True, slots=True)
class GuardrailRule:
    """One row of `fleming.guardrails` that is switched on."""

    name: str
    """What errors and the log call it; made of the other columns where the row has none."""
    phase: Phase
    rank: int
    """Lowest first within a phase."""
    kind: str
    """Name in the registry of guardrails."""
    behavior: Behavior
    config: str
    """JSON object, as the kind's schema has it."""
    fails_open: bool
    """Whether a call goes on when the guardrail itself fails."""
    timeout_s: float
    """How long it may take."""


@dataclass(frozen=True, slots=True)
class PiiEntity:
    """One row of `fleming.pii_entities` that is switched on: personal data of a form of one's own."""

    name: str
    """Such as `EMPLOYEE_ID`; a placeholder is `<EMPLOYEE_ID>`."""
    pattern: str
    """RE2."""
    validator: str | None = None
    """A built-in check that what the pattern matched has to pass, such as `luhn`."""
    context_words: tuple[str, ...] = ()
    """One of them has to stand near; none is needed where there are none."""


@dataclass(frozen=True, slots=True)
class SqlMacro:
    """A macro of the store that a SQL policy may use."""

    name: str
    parameters: tuple[str, ...]
    definition: str
    """The expression, as DuckDB writes it."""


class PolicyEvent(NamedTuple):
    """What a SQL policy is asked about: one text of a request or of an answer, and what it belongs to."""

    type: str
    """`request` or `response`."""
    target: str
    """Name of the endpoint."""
    actor: str
    """Name of the user."""
    message: str
    """The text."""
    arguments: str | None
    """What is called with the text among its arguments, as JSON; None for text that is none of a call's arguments."""
    role: str
    """Of the message: `system`, `user`, `assistant`, `tool`; `parameter` and `input` for what is no message."""
    path: str
    """Where it stands, such as `messages[0].content`."""
    groups: Sequence[str]
    """Those that the user is in."""


@dataclass(frozen=True, slots=True)
class GuardrailRules:
    """Everything that decides what guardrails do, as one version of the configuration had it."""

    by_endpoint: Mapping[str, tuple[GuardrailRule, ...]] = field(default_factory=dict)
    """By endpoint, those of all endpoints included, in the order in which they look."""
    pii_entities: tuple[PiiEntity, ...] = ()
    macros: Mapping[str, SqlMacro] = field(default_factory=dict)
    """By name."""
