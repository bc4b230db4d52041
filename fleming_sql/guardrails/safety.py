"""The kind `safety`: a model made for it says which categories of harm the texts are of.

There are two sorts of such models, told apart by what they answer. Llama Guard is asked like a chat, without a word of
ours beside it, and answers in text; its categories are the hazards S1 to S14 of Llama Guard 3 and 4, after the taxonomy
of MLCommons (https://www.llama.com/docs/model-cards-and-prompt-formats/llama-guard-3/). Llama Guard 2 counts them
otherwise from S5 on. Moderation endpoints answer with a score for each category
(https://platform.openai.com/docs/api-reference/moderations/object); the provider `openai-moderation` speaks to them,
for endpoints whose task is `custom`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, ClassVar, Final

from fleming_sql.guardrails.base import BadConfig, ModelGuardrail, Question, Surroundings, Undecided, Verdict
from fleming_sql.guardrails.documents import Document, Part
from fleming_sql.guardrails.model_answers import ENDPOINT_SCHEMA, MAX_CONTEXT, end_of, is_share, without_template_marks
from fleming_sql.types import CHAT, CUSTOM, Behavior

HAZARDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "s1": "violent-crimes",
        "s2": "non-violent-crimes",
        "s3": "sex-crimes",
        "s4": "child-exploitation",
        "s5": "defamation",
        "s6": "specialized-advice",
        "s7": "privacy",
        "s8": "intellectual-property",
        "s9": "indiscriminate-weapons",
        "s10": "hate",
        "s11": "self-harm",
        "s12": "sexual-content",
        "s13": "elections",
        "s14": "code-interpreter-abuse",
    }
)
"""Llama Guard's codes, and the names of their categories in Databricks' words where it has them."""
_MAX_TOKENS: Final = 128
"""All fourteen codes take some 60; a model that goes on is not answering."""
_CODE: Final = re.compile(r"[a-z]\d{1,3}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _./&-]{0,63}")


@dataclass(frozen=True, slots=True)
class _Assessment:
    """What a model says of the texts."""

    flagged: bool
    """Whether it objects to any of them."""
    categories: frozenset[str]
    """Those that it objects for."""
    scores: Mapping[str, float]


class Safety(ModelGuardrail):
    """Objects to harmful texts, by the model's own judgement or by thresholds per category."""

    description: ClassVar[str] = "A safety model, Llama Guard or a moderation endpoint, says what harm the texts are of"
    tasks: ClassVar[frozenset[str]] = frozenset({CHAT, CUSTOM})
    behaviors: ClassVar[tuple[Behavior, ...]] = ("block", "log")
    config_schema: ClassVar[Mapping[str, Any]] = {
        "properties": {
            "endpoint": ENDPOINT_SCHEMA,
            "categories": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "boolean"}]
                },
                "description": "Category to the score from which it objects; true leaves it to the model, false "
                "ignores the category. Those that are not listed are ignored. Without this key the model decides",
            },
        },
        "required": ["endpoint"],
    }

    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None:
        self.endpoint: str = config["endpoint"]
        given: Mapping[str, float | bool] | None = config.get("categories")
        self._wanted = None if given is None else _wanted(given)
        self._codes = frozenset(filter(_CODE.fullmatch, map(_name, given or ())))

    def question(self, document: Document) -> Question:
        """Return the conversation as Llama Guard knows it, and the texts as moderation endpoints take them."""
        parameters = {"temperature": 0, "max_tokens": _MAX_TOKENS}
        return Question(self.endpoint, {"messages": _conversation(document)}, parameters, {"input": _input(document)})

    def read(self, document: Document, answer: Any) -> Verdict:
        """Return the model's verdict, or what the thresholds make of its scores.

        Raises:
            Undecided: The answer is of neither sort, or has no word on a category that the config lists.
        """
        if isinstance(answer, str):
            said = _read_guard(answer)
            known = {*HAZARDS.values(), *self._codes}
        else:
            said = _read_moderation(answer, len(_texts(document.parts)))
            known = set(said.scores)
        if self._wanted is None:
            return _verdict(said.flagged, said.categories, said.scores)
        if unknown := sorted(self._wanted.keys() - known):
            raise Undecided(f"the safety model has no category {', '.join(unknown)}: change categories in the config")
        _check_categories(said, self._wanted, known)
        hit = {name for name, threshold in self._wanted.items() if _objects(said, name, threshold)}
        return _verdict(bool(hit), hit, said.scores)


def _wanted(given: Mapping[str, float | bool]) -> Mapping[str, float | bool]:
    """Return the thresholds of the categories that count, by name."""
    thresholds = {_name(category): threshold for category, threshold in given.items()}
    if len(thresholds) < len(given):
        raise BadConfig(
            "categories lists one category twice", "write each once, by its name or by its code: S10 is hate"
        )
    wanted = {name: threshold for name, threshold in thresholds.items() if threshold is not False}
    if not wanted:
        raise BadConfig(
            "all categories are false, so that nothing would be objected to",
            "give one a threshold from 0 to 1 or true, or leave categories out to let the model decide",
        )
    return wanted


def _name(category: str) -> str:
    """Return a category's name, where a code of Llama Guard is given too."""
    folded = category.strip().lower()
    return HAZARDS.get(folded, folded)


def _conversation(document: Document) -> list[Mapping[str, str]]:
    """Return the texts as one message of the side that they come from, after what was asked where they answer it.

    Llama Guard judges the last message only, so all texts go into it. Its chat template has the user begin.
    """
    asked = _joined(end_of(document.before, MAX_CONTEXT))
    said = _joined(document.parts)
    if not asked.strip():
        return [{"role": "user", "content": said}]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def _joined(parts: Sequence[Part]) -> str:
    return without_template_marks("\n\n".join(_texts(parts)))


def _input(document: Document) -> str | list[str]:
    texts = _texts(document.parts)
    return texts[0] if len(texts) == 1 else texts


def _texts(parts: Sequence[Part]) -> list[str]:
    """Return the texts, with those in one that are read together: a key says little without its value.

    Texts in which nothing stands are left out, which some moderation endpoints refuse.
    """
    groups = groupby(parts, key=lambda part: (part.whole, part.role))
    texts = ("\n".join(part.text for part in group) for _, group in groups)
    return [text for text in texts if text.strip()] or [""]


def _read_guard(answer: str) -> _Assessment:
    """Read Llama Guard's answer: `safe`, or `unsafe` and a line with the codes of the categories."""
    first, *more = [line.strip().lower() for line in answer.splitlines() if line.strip()] or [""]
    if first == "safe" and not more:
        return _Assessment(False, frozenset(), {})
    if first != "unsafe" or len(more) > 1:
        raise Undecided("the safety model's answer is neither safe nor unsafe with a line of categories")
    codes = [code.strip() for code in more[0].split(",")] if more else []
    if not all(map(_CODE.fullmatch, codes)):
        raise Undecided("the safety model's categories are not codes such as S1,S10")
    names = frozenset(map(_name, codes))
    return _Assessment(True, names, dict.fromkeys(sorted(names), 1.0))


def _read_moderation(answer: Any, texts: int) -> _Assessment:
    """Read a moderation answer: the highest score of any text counts."""
    results = answer.get("results") if isinstance(answer, Mapping) else None
    if not isinstance(results, list):
        raise Undecided("the safety model's answer is neither text nor an object with results")
    if len(results) != texts:
        raise Undecided(f"the safety model gave {len(results)} results for {texts} texts")
    read = [_read_result(result) for result in results]
    scores: dict[str, float] = {}
    for one in read:
        for name, score in one.scores.items():
            scores[name] = max(score, scores.get(name, 0.0))
    return _Assessment(
        any(one.flagged for one in read), frozenset[str]().union(*(one.categories for one in read)), scores
    )


def _read_result(result: Any) -> _Assessment:
    if not isinstance(result, Mapping):
        raise Undecided("a result of the safety model is not an object")
    judged = _categories(result, "categories")
    scored = _categories(result, "category_scores")
    if not all(isinstance(value, bool) for value in judged.values()):
        raise Undecided("categories of the safety model's result are not true or false")
    if not all(is_share(value) for value in scored.values()):
        raise Undecided("category_scores of the safety model's result are not numbers from 0 to 1")
    flagged = result.get("flagged")
    # Mistral's results have the categories only.
    if not isinstance(flagged, bool) and (flagged is not None or not judged):
        raise Undecided("a result of the safety model does not say whether the text is flagged")
    categories = frozenset(name for name, value in judged.items() if value)
    scores = {**{name: float(value) for name, value in judged.items()}, **scored}
    return _Assessment(bool(flagged or categories), categories, scores)


def _categories(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return what a result has by category, less those that the model does not judge, which are null."""
    found = result.get(key)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise Undecided(f"{key} of the safety model's result is not an object")
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in found):
        raise Undecided(f"{key} of the safety model's result has a name that is none")
    named = {_name(name): value for name, value in found.items()}
    if len(named) < len(found):
        raise Undecided(f"{key} of the safety model's result has a category twice")
    return {name: value for name, value in named.items() if value is not None}


def _check_categories(said: _Assessment, wanted: Mapping[str, float | bool], known: Collection[str]) -> None:
    """Raise where a model objects and does not say for which category, in words that can be held against the config."""
    by_score = said.scores and not any(threshold is True for threshold in wanted.values())
    if said.flagged and not said.categories and not by_score:
        raise Undecided("the safety model objects and does not say for which category")
    if not said.categories <= set(known):
        raise Undecided("the safety model objects by a code that is none of Llama Guard's")


def _objects(said: _Assessment, name: str, threshold: float | bool) -> bool:
    return name in said.categories if threshold is True else said.scores.get(name, -1.0) >= threshold


def _verdict(flagged: bool, categories: Iterable[str], scores: Mapping[str, float]) -> Verdict:
    named = sorted(categories) if flagged else []
    reason = "unsafe: " + ", ".join(named) if named else "unsafe"
    return Verdict(reason if flagged else None, scores=scores, categories=named)
