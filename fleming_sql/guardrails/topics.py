"""The kind `topics`: a model says what the texts are about, and only what is listed may pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from fleming_sql import jsontext
from fleming_sql.guardrails.base import PASS, BadConfig, ModelGuardrail, Question, Surroundings, Undecided, Verdict
from fleming_sql.guardrails.documents import Document
from fleming_sql.guardrails.model_answers import DATA_RULES, ENDPOINT_SCHEMA, ask_about, read_object
from fleming_sql.types import Behavior

_INSTRUCTIONS: Final = (
    "You say which topic texts are about.\n\n{rules}\n\nThe topics are: {topics}\n\n"
    "Decide about the texts together. If they are about several of these topics, take the main one. If they are about "
    "none of them, or ask for something else besides, the topic is null. Answer with one JSON object and nothing else, "
    'without Markdown: {{"topic": one of the topics as it is written above, or null}}'
)
_MAX_NAMED: Final = 10


class Topics(ModelGuardrail):
    """Lets pass what is about one of the topics, as a chat model classifies it."""

    description: ClassVar[str] = "A model says which of the allowed topics the texts are about; nothing else passes"
    behaviors: ClassVar[tuple[Behavior, ...]] = ("block", "log")
    config_schema: ClassVar[Mapping[str, Any]] = {
        "properties": {
            "endpoint": ENDPOINT_SCHEMA,
            "topics": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 200},
                "minItems": 1,
                "maxItems": 1_000,
                "description": "What the texts may be about, in words that a model understands",
            },
        },
        "required": ["endpoint", "topics"],
    }

    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None:
        topics = [" ".join(topic.split()) for topic in config["topics"]]
        if not all(topics):
            raise BadConfig("one of topics is blank", "name each topic, or leave it out")
        self.endpoint: str = config["endpoint"]
        self._instructions = _INSTRUCTIONS.format(rules=DATA_RULES, topics=jsontext.dumps(topics))
        self._known = frozenset(map(_folded, topics))
        self._reason = f"off topic: none of {_listed(topics)}"

    def question(self, document: Document) -> Question:
        """Return the topics as a system message, and the texts as data in a user message."""
        return ask_about(document, self.endpoint, self._instructions)

    def read(self, document: Document, answer: Any) -> Verdict:
        """Return an objection unless the model named one of the topics, in any case.

        Raises:
            Undecided: The answer is not in the form that was asked for.
        """
        said = read_object(answer)
        topic = said.get("topic", False)
        if topic is not None and not isinstance(topic, str):
            raise Undecided('the model\'s answer has no "topic" that is a text or null')
        return PASS if topic is not None and _folded(topic) in self._known else Verdict(self._reason)


def _folded(topic: str) -> str:
    return " ".join(topic.split()).casefold()


def _listed(topics: list[str]) -> str:
    more = len(topics) - _MAX_NAMED
    return ", ".join(topics[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
