"""The kind `judge`: a model decides by criteria in one's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from fleming_sql.guardrails.base import PASS, BadConfig, ModelGuardrail, Question, Surroundings, Undecided, Verdict
from fleming_sql.guardrails.documents import Document
from fleming_sql.guardrails.model_answers import DATA_RULES, ENDPOINT_SCHEMA, ask_about, is_share, read_object
from fleming_sql.types import Behavior

_INSTRUCTIONS: Final = "You judge texts by the criteria below.\n\n{rules}\n\nCriteria:\n{criteria}\n\n{form}"
_DECIDE: Final = (
    "Answer with one JSON object and nothing else, without Markdown: "
    '{"flagged": true if any text goes against the criteria, else false, "confidence": a number from 0 to 1}'
)
_REWRITE: Final = (
    "Write each text anew without what goes against the criteria, and leave all else in it as it is. "
    "Answer with one JSON object and nothing else, without Markdown: "
)
_REWRITE_ONE: Final = _REWRITE + '{"sanitized_text": the new text}, or {"flagged": false} if there is nothing to change'
_REWRITE_MANY: Final = _REWRITE + (
    '{"sanitized_texts": [the new texts, %d of them, in the order of "texts"]}, '
    'or {"flagged": false} if there is nothing to change'
)


class Judge(ModelGuardrail):
    """Puts the texts and the row's criteria before any chat endpoint.

    With the behaviors block and log the model answers `{"flagged": …, "confidence": …}`, with mask
    `{"sanitized_text": …}`, or `{"sanitized_texts": […]}` where there are several texts.
    """

    description: ClassVar[str] = "A model decides by criteria in one's own words, or takes out what goes against them"
    config_schema: ClassVar[Mapping[str, Any]] = {
        "properties": {
            "endpoint": ENDPOINT_SCHEMA,
            "prompt": {
                "type": "string",
                "minLength": 1,
                "maxLength": 20_000,
                "description": "The criteria: what is not to pass. How the texts come and how to answer is added",
            },
        },
        "required": ["endpoint", "prompt"],
    }

    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None:
        if not config["prompt"].strip():
            raise BadConfig("prompt is blank", "write the criteria that the model is to judge by")
        self.endpoint: str = config["endpoint"]
        self._criteria: str = config["prompt"].strip()
        self._rewrites = behavior == "mask"

    def question(self, document: Document) -> Question:
        """Return the criteria as a system message, and the texts as data in a user message."""
        form = _DECIDE
        if self._rewrites:
            count = len(document.parts)
            form = _REWRITE_ONE if count == 1 else _REWRITE_MANY % count
        instructions = _INSTRUCTIONS.format(rules=DATA_RULES, criteria=self._criteria, form=form)
        return ask_about(document, self.endpoint, instructions)

    def read(self, document: Document, answer: Any) -> Verdict:
        """Return the model's verdict.

        Raises:
            Undecided: The answer is not in the form that was asked for, or says one thing and its contrary.
        """
        said = read_object(answer)
        return _rewritten(document, said) if self._rewrites else _decided(said)


def _decided(said: Mapping[str, Any]) -> Verdict:
    flagged = said.get("flagged")
    if not isinstance(flagged, bool):
        raise Undecided('the judge\'s answer has no "flagged" that is true or false')
    confidence = said.get("confidence")
    if confidence is not None and not is_share(confidence):
        raise Undecided('"confidence" in the judge\'s answer is not a number from 0 to 1')
    if not flagged:
        return PASS
    return Verdict("flagged by the judge" + ("" if confidence is None else f" (confidence {confidence:.2f})"))


def _rewritten(document: Document, said: Mapping[str, Any]) -> Verdict:
    flagged = said.get("flagged")
    if flagged is not None and not isinstance(flagged, bool):
        raise Undecided('"flagged" in the judge\'s answer is not true or false')
    if flagged is False and "sanitized_text" not in said and "sanitized_texts" not in said:
        return PASS
    texts = _sanitized(said, len(document.parts))
    changed = sum(new != part.text for new, part in zip(texts, document.parts, strict=True))
    if changed:
        return Verdict(f"rewritten by the judge: {changed} of {len(texts)} texts", texts=texts)
    if flagged:
        raise Undecided("the judge flagged the texts and changed nothing in them")
    return PASS


def _sanitized(said: Mapping[str, Any], count: int) -> list[str]:
    if ("sanitized_text" in said) == ("sanitized_texts" in said):
        raise Undecided('the judge\'s answer must have either "sanitized_text" or "sanitized_texts"')
    texts = [said["sanitized_text"]] if "sanitized_text" in said else said["sanitized_texts"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Undecided("the judge's sanitized texts are not texts")
    if len(texts) != count:
        raise Undecided(f"the judge wrote {len(texts)} texts for {count}")
    return texts
