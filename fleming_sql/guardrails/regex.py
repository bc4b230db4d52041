"""The guardrail `regex`: what a regular expression of one's own matches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from fleming_sql.guardrails.base import BadConfig, Surroundings
from fleming_sql.guardrails.spans import Span, SpanGuardrail
from fleming_sql.types import Behavior

ENTITY: Final = "REGEX"
_PROBES: Final = (b"", b"a", b"1 a", b"\n")
"""Texts in which whatever matches the empty string does so: at either end, between words, at a word's edge."""
_MOST_READ: Final = 1 << 30
"""Bytes. One search is linear, but a search after each match need not be: `x.*y|x` reads on to the end each time."""


class Regex(SpanGuardrail):
    """Finds what a pattern in the syntax of RE2 matches, in linear time whatever the pattern.

    See https://github.com/google/re2/wiki/Syntax. A pattern is case-sensitive unless it begins with `(?i)`.

    It reads the text as it is, with the escapes of JSON resolved: what is hidden behind letters that look alike, full
    width or characters that nobody sees is not seen through, since a pattern may be about just those. `keywords` and
    `pii`, with entities of one's own, do see through it.
    """

    description = "What a regular expression matches, in the syntax of RE2"
    config_schema: ClassVar[Mapping[str, Any]] = {
        "properties": {
            "pattern": {
                "type": "string",
                "minLength": 1,
                "description": "Regular expression in the syntax of RE2; (?i) at its beginning ignores case",
            }
        },
        "required": ["pattern"],
    }

    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None:
        self._pattern = _compiled(config["pattern"])

    def find(self, text: str) -> Sequence[Span]:
        """Return what the pattern matches, from left to right."""
        data = text.encode("utf-8", "replace")
        if self._pattern.search(data) is None:
            return ()
        stretches = self._stretches(data)
        if len(data) != len(text):
            stretches = _in_characters(data, stretches)
        return [Span(start, end, ENTITY) for start, end in stretches]

    def _stretches(self, data: bytes) -> Iterator[tuple[int, int]]:
        read = 0
        for match in self._pattern.finditer(data):
            start, end = match.span()
            if read > _MOST_READ:
                yield start, len(data)
                return
            if start < end:
                yield start, end
            read += len(data) - start


def _compiled(pattern: str) -> Any:
    """Return a pattern, compiled.

    Raises:
        BadConfig: RE2 refuses it, or it matches the empty string.
    """
    import re2  # a native library: only those who use such a guardrail load it

    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise BadConfig(f"the pattern {pattern!r} cannot be used: {_words(error)}", _remedy(pattern)) from None
    if any(match.start() == match.end() for probe in _PROBES for match in compiled.finditer(probe)):
        raise BadConfig(
            f"the pattern {pattern!r} matches the empty string, which is everywhere",
            "make it ask for at least one character, such as a+ in the place of a*",
        )
    return compiled


def _words(error: Exception) -> str:
    told = error.args[0] if error.args else ""
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)


def _remedy(pattern: str) -> str:
    if any(operator in pattern for operator in ("(?=", "(?!", "(?<=", "(?<!")):
        return "RE2 knows no look-ahead and no look-behind, since it runs in linear time: match what stands around too"
    if any(f"\\{digit}" in pattern for digit in "123456789"):
        return "RE2 knows no back-references, since it runs in linear time: write out what may stand there"
    return "write a regular expression in the syntax of RE2, https://github.com/google/re2/wiki/Syntax"


def _in_characters(data: bytes, stretches: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    r"""Return stretches of UTF-8 bytes, given from left to right, as stretches of whole characters.

    They are whole already, unless the pattern has a `\C`, which is any byte.
    """
    characters = done = 0
    for start, end in stretches:
        while _continues(data, start):
            start -= 1
        while _continues(data, end):
            end += 1
        if start < done:
            continue
        begin = characters + len(data[done:start].decode())
        characters, done = begin + len(data[start:end].decode()), end
        yield begin, characters


def _continues(data: bytes, position: int) -> bool:
    """Return whether the character at a position began before it."""
    return position < len(data) and data[position] & 0xC0 == 0x80
