"""What every guardrail is: something that looks at the texts of a request or of an answer and says what it objects to.

There are three ways of looking, one class each: `TextGuardrail` by the text alone, `PolicyGuardrail` by an expression
in SQL that is evaluated for many texts at once, `ModelGuardrail` by asking a model. A kind is a subclass of one of
them in a module of its own, and one line in the registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

from fleming_sql.guardrails.documents import Document
from fleming_sql.policies.tokens import estimate_tokens
from fleming_sql.types import Behavior, Phase, PiiEntity, SqlMacro

BOTH_PHASES: Final[tuple[Phase, ...]] = ("input", "output")


class BadConfig(Exception):
    """The config of a guardrail cannot be gone by.

    Args:
        problem: What is wrong with it, with the value.
        remedy: What to do, and what would be accepted.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem
        self.remedy = remedy


class Undecided(Exception):
    """A guardrail could not come to a decision: its model's answer cannot be read, its expression failed.

    Args:
        reason: Why, without a word of the text that it looked at.
    """


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the config of a guardrail may refer to."""

    pii_entities: tuple[PiiEntity, ...] = ()
    macros: Mapping[str, SqlMacro] = field(default_factory=dict)
    """By name."""
    count_tokens: Callable[[str], int] = lambda text: estimate_tokens(len(text))


class Finding(NamedTuple):
    """Something that was found in a text."""

    entity: str
    """What it is: `EMAIL_ADDRESS`, `KEYWORD`, a category of harm."""
    part: int
    """Position of the text among the document's parts."""
    start: int
    end: int
    """In characters of that text, as it was before anything in it was masked by this guardrail."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guardrail says to one document."""

    reason: str | None = None
    """Why it objects, without a word of the text; None where it does not."""
    findings: Sequence[Finding] = ()
    texts: Sequence[str] | None = None
    """The texts of all parts with what was found masked; None where the kind masks nothing."""
    originals: Mapping[str, str] = field(default_factory=dict)
    """What stands behind the placeholders in `texts` that are put back into the answer."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """How much the text is of each category of harm, 0 to 1."""
    categories: Sequence[str] = ()
    """Those of them that it objects to."""
    masks: bool = False
    """Whether a policy itself says to mask, whatever the row's behavior."""


PASS: Final = Verdict()
"""No objection."""


class Guardrail(ABC):
    """One row of `fleming.guardrails`, ready to look at documents. It keeps no state between them.

    Args:
        config: The row's config, which keeps to `config_schema`.
        behavior: The row's.
        surroundings: What the config may refer to.

    Raises:
        BadConfig: The config keeps to the schema and cannot work all the same.
    """

    description: ClassVar[str]
    """One line for `fleming.guardrail_kinds`."""
    config_schema: ClassVar[Mapping[str, Any]]
    """JSON Schema of the config, without `type` and `additionalProperties`: it is an object with these keys only."""
    phases: ClassVar[tuple[Phase, ...]] = BOTH_PHASES
    behaviors: ClassVar[tuple[Behavior, ...]] = ("block", "mask", "log")
    """What may be done with what it finds, besides nothing."""
    detects_pii: ClassVar[bool] = False
    """Whether what it finds is personal data, which Databricks' answer to a blocked call tells from other harm."""
    counts_tokens: bool = False
    """Whether it uses `Surroundings.count_tokens`."""

    @abstractmethod
    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None: ...


class TextGuardrail(Guardrail):
    """Decides by the text alone, on the thread that makes the calls: it must be quick, in linear time."""

    @abstractmethod
    def examine(self, document: Document) -> Verdict:
        """Return what there is to say to a document.

        Raises:
            Undecided: It could not decide.
        """


class PolicyGuardrail(Guardrail):
    """Decides by a SQL expression over an `event`, evaluated for many events in one query."""

    expression: str
    """The expression, checked: it reads `event` and nothing else, and writes nothing."""
    macros: tuple[SqlMacro, ...]
    """Those that it uses, each after the ones that it uses itself."""
    reads_caller: bool = True
    """Whether what it says may depend on who asks, so that answers are not shared between users."""

    @abstractmethod
    def read(self, document: Document, results: Sequence[Any]) -> Verdict:
        """Return the verdict for a document.

        Args:
            document: It.
            results: What the expression returned for each of its parts, as a JSON value; an `Undecided` where it
                failed.

        Raises:
            Undecided: A result cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Question:
    """What a guardrail asks a model."""

    endpoint: str
    request: Any
    """As for `ai_query`: a text, or an object with `messages`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Not for an endpoint whose task is `custom`, which takes none."""
    fields: Any = None
    """What is asked in place of `request` where the endpoint's task is `custom`."""


class ModelGuardrail(Guardrail):
    """Decides by what a model says."""

    tasks: ClassVar[frozenset[str]] = frozenset({"llm/v1/chat"})
    """What the endpoint may be for that the config names in its key `endpoint`."""
    endpoint: str
    """Its name."""

    @abstractmethod
    def question(self, document: Document) -> Question:
        """Return what to ask."""

    @abstractmethod
    def read(self, document: Document, answer: Any) -> Verdict:
        """Return the verdict.

        Args:
            document: What was asked about.
            answer: What the model said: the text of a chat, the value of a custom model.

        Raises:
            Undecided: The answer is not what was asked for.
        """
