"""The guardrail `keywords`: words and phrases, found by an automaton for all of them at once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar, Final

from fleming_sql.guardrails.base import BadConfig, Surroundings
from fleming_sql.guardrails.folding import UNSPACED_BREAK, Folded, fold
from fleming_sql.guardrails.spans import Span, SpanGuardrail, joined
from fleming_sql.types import Behavior

ENTITY: Final = "KEYWORD"
_SPACELESS: Final = re.compile(
    r"[\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9df\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no space between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese and their kin."""


class Keywords(SpanGuardrail):
    """Finds words and phrases. Keywords that overlap in a text are found as one.

    Case, the width of letters and characters that nobody sees make no difference, nor do Cyrillic, Greek and Armenian
    letters that look like Latin ones in a word that has Latin letters too. A word of such letters alone is read as it
    is written, or keywords of one language would be found in texts of another.
    """

    description = "Words and phrases, in any case; thousands of them cost hardly more than one"
    config_schema: ClassVar[Mapping[str, Any]] = {
        "properties": {
            "keywords": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 1000},
                "minItems": 1,
                "maxItems": 100_000,
                "description": "Words and phrases, up to 100000 of up to 1000 characters; any white space matches that "
                "between the words of a phrase",
            },
            "whole_word": {
                "type": "boolean",
                "default": True,
                "description": "Whether a keyword has to stand by itself: true does not find art in party. Letters of "
                "scripts without spaces, such as Chinese, always stand by themselves",
            },
        },
        "required": ["keywords"],
    }

    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None:
        from ahocorasick_rs import AhoCorasick  # a native library: only those who use such a guardrail load it

        self._whole_word: bool = config.get("whole_word", True)
        self._automaton = AhoCorasick(_distinct(config["keywords"]), store_patterns=False)

    def find(self, text: str) -> Sequence[Span]:
        """Return where keywords stand, those that overlap as one."""
        try:
            return self._find(text)
        except UnicodeEncodeError:  # half a surrogate pair, which the automaton does not read
            return self._find(text.encode("utf-8", "replace").decode())

    def _find(self, text: str) -> Sequence[Span]:
        if text.isascii() and text.isprintable() and "  " not in text:
            return joined(Span(start, end, ENTITY) for start, end in self._matches(text.lower()))
        if not self._automaton.find_matches_as_indexes(fold(text)):
            return ()
        folded = Folded(text)
        breaks = folded.breaks() if self._whole_word and UNSPACED_BREAK in text else frozenset()
        return joined(Span(*folded.place(start, end), ENTITY) for start, end in self._matches(folded.text, breaks))

    def _matches(self, text: str, breaks: Set[int] = frozenset()) -> list[tuple[int, int]]:
        found = self._automaton.find_matches_as_indexes(text, overlapping=True)
        if not found:
            return []
        return sorted(
            (start, end)
            for _, start, end in found
            if not self._whole_word
            or ((start in breaks or _is_edge(text, start)) and (end in breaks or _is_edge(text, end)))
        )


def _is_edge(text: str, position: int) -> bool:
    """Return whether a word may begin or end at a position: not between two letters of a script with spaces."""
    if position in (0, len(text)):
        return True
    return not (_is_of_word(text[position - 1]) and _is_of_word(text[position]))


def _is_of_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character == "_"
    is_letter = character.isalnum() or unicodedata.category(character) in ("Mn", "Mc")
    return is_letter and not _SPACELESS.match(character)


def _distinct(keywords: Sequence[str]) -> list[str]:
    """Return keywords as they are compared.

    Raises:
        BadConfig: One is blank, or the same as another.
    """
    folded: dict[str, str] = {}
    for keyword in keywords:
        compared = fold(keyword)
        if not compared:
            raise BadConfig(f"the keyword {keyword!r} is blank", "leave it out")
        if compared in folded:
            raise BadConfig(
                f"the keywords {folded[compared]!r} and {keyword!r} are the same",
                "leave one of them out; case, the width of letters, the length of white space and letters of another "
                "script that look Latin within a Latin word make no difference",
            )
        folded[compared] = keyword
    return list(folded)
