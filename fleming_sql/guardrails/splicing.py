"""Placeholders put into texts, and taken out again: what is JSON stays JSON.

A text may be JSON, hold it in a Markdown fence, or be neither. In JSON a placeholder is put into the string that holds
what was found; a number, which cannot hold it, becomes a string. Escapes are taken out whole, and quotes, braces and
commas stay where they are, whatever was found.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from fleming_sql import jsontext

_TOKEN: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[^\s\[\]{}:,"]+', re.DOTALL)
"""A string, number or word of a text that is known to be JSON."""
ESCAPE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL
)
"""An escape of a text that is known to be JSON; surrogates in pairs."""
_FENCE: Final = re.compile(r"```[\w+-]*\s*(?=[\[{])")
_SPACE: Final = re.compile(r"\s*")
_MOST_FAILURES: Final = 100
"""Fences without JSON in a text until no more of them are read: each error counts the lines before it."""
_BRACKETED: Final = re.compile(r"<[^<>]*>")
_IN_JSON: Final = re.compile(r'(?<!\\)"<[^<>"]*>"|<[^<>]*>')
_DECODER: Final = json.JSONDecoder()


class Mark(NamedTuple):
    """A stretch of a text that is to be taken out."""

    start: int
    end: int
    """In characters; exclusive."""
    entity: str
    whole: str | None = None
    """What it is a piece of, where that goes on in the next text; empty for a later piece; None for what is whole."""


class Placeholders:
    """What is put in the place of what was found, in one document.

    Args:
        texts: Of the document where placeholders are numbered: the same value gets the same number, and none that
            stands in the texts already; None where all of an entity are alike.
    """

    def __init__(self, texts: Sequence[str] | None) -> None:
        self._texts = texts
        self._given: dict[tuple[str, str, bool], str] = {}
        self._numbers: Counter[str] = Counter()
        self._taken: frozenset[str] | None = None
        self.originals: dict[str, str] = {}
        """Placeholder to what it stands for; only where they are numbered.

        A second key says what stands in JSON where that is not the same value, encoded: a placeholder in quotes for
        what was no string, and one after a backslash for a string that was written with other escapes.
        """

    def of_text(self, entity: str, original: str) -> str:
        """Return what is put in the place of `original`."""
        return self._placeholder(entity, original) if self._texts is not None else f"<{entity}>"

    def of_string(self, entity: str, source: str) -> str:
        """Return what is put in the place of a piece of the source of a JSON string."""
        if self._texts is None:
            return f"<{entity}>"
        meaning = jsontext.loads(f'"{source}"') if "\\" in source else source
        placeholder = self._placeholder(entity, meaning)
        if "\\" in source and jsontext.dumps(meaning)[1:-1] != source:
            self.originals.setdefault(f"\\{placeholder}", source)
        return placeholder

    def of_value(self, entity: str, source: str) -> str:
        """Return what is put in the place of a JSON number, or of a word such as `true`: a string."""
        if self._texts is None:
            return f'"<{entity}>"'
        placeholder = f'"{self._placeholder(entity, source, is_value=True)}"'
        self.originals[placeholder] = source
        return placeholder

    def _placeholder(self, entity: str, original: str, *, is_value: bool = False) -> str:
        # A number has another placeholder than a string of the same digits: each is put back as what it was.
        key = entity, original, is_value
        known = self._given.get(key)
        if known is None:
            known = self._given[key] = self._next(entity)
            self.originals[known] = original
        return known

    def _next(self, entity: str) -> str:
        if self._taken is None:
            self._taken = frozenset(match[0] for text in self._texts or () for match in _BRACKETED.finditer(text))
        while True:
            self._numbers[entity] += 1
            placeholder = f"<{entity}_{self._numbers[entity]}>"
            if placeholder not in self._taken:
                return placeholder


def mask(text: str, marks: Sequence[Mark], placeholders: Placeholders) -> str:
    """Return a text with placeholders in the place of what is marked; what is JSON stays JSON.

    Args:
        text: The text.
        marks: In their order, without overlaps.
        placeholders: Gives them.
    """
    stretches = json_stretches(text) if marks else ()
    changes = _changes(text, stretches, marks) if stretches else [_Change("text", *mark) for mark in marks]
    pieces, done = [], 0
    for change in _joined(changes):
        pieces += [text[done : change.start], _new(text, change, placeholders)]
        done = change.end
    return "".join([*pieces, text[done:]])


def restore(text: str, originals: Mapping[str, str]) -> str:
    r"""Put what stood there before into the place of numbered placeholders; a text that is JSON stays JSON.

    Args:
        text: An answer to what was masked.
        originals: As `Placeholders.originals` has them. Placeholders within them are left alone.

    Example:
        >>> restore('{"to": "<NAME_1>"}', {"<NAME_1>": 'Ada "the first"'})
        '{"to": "Ada \\"the first\\""}'
    """
    if not originals or not any(match[0] in originals for match in _BRACKETED.finditer(text)):
        return text
    pieces, done = [], 0
    for start, end in json_stretches(text):
        pieces.append(_restored_text(text[done:start], originals))
        pieces.append(_restored_json(text[start:end], originals))
        done = end
    return "".join([*pieces, _restored_text(text[done:], originals)])


def json_stretches(text: str) -> list[tuple[int, int]]:
    """Return where a text is JSON: all of it, what Markdown fences hold, or nowhere.

    JSON is an object or an array here, or several in a row, as in JSON Lines. Numbers and words by themselves are text.
    """
    if text.lstrip()[:1] in ("{", "[") and (_is_json(text) or _end_of_values(text, 0) == len(text)):
        return [(0, len(text))]
    if "```" not in text:
        return []
    found: list[tuple[int, int]] = []
    failed = 0
    for fence in _FENCE.finditer(text):
        if not found or fence.start() >= found[-1][1]:
            end = _end_of_values(text, fence.end())
            if end > fence.end():
                found.append((fence.end(), end))
            elif (failed := failed + 1) == _MOST_FAILURES:
                break
    return found


def _is_json(text: str) -> bool:
    try:
        jsontext.loads(text)
    except ValueError:
        return False
    return True


def _end_of_values(text: str, start: int) -> int:
    """Return where the objects and arrays end that follow each other from `start` on, white space included."""
    end = start
    while True:
        begin = _SPACE.match(text, end).end()  # type: ignore[union-attr]  # it matches anything
        if text[begin : begin + 1] not in ("{", "["):
            return begin if end > start else start
        try:
            _, end = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError):
            return start if end == start else end


class _Change(NamedTuple):
    form: Literal["text", "string", "value"]
    start: int
    end: int
    entity: str
    whole: str | None = None


def _new(text: str, change: _Change, placeholders: Placeholders) -> str:
    source = text[change.start : change.end]
    if change.form == "value":
        return placeholders.of_value(change.entity, source)
    if change.form == "string":
        return placeholders.of_string(change.entity, source)
    if change.whole == "":
        return ""
    return placeholders.of_text(change.entity, source if change.whole is None else change.whole)


def _changes(text: str, stretches: Sequence[tuple[int, int]], marks: Sequence[Mark]) -> list[_Change]:
    """Return what has to be replaced for `marks` to be gone from a text that holds JSON."""
    changes: list[_Change] = []
    first = 0
    for form, begin, stop in _regions(text, stretches):
        while first < len(marks) and marks[first].end <= begin:
            first += 1
        if first == len(marks):
            break
        region = _Region(text, form, begin, stop)
        position = first
        while position < len(marks) and marks[position].start < stop:
            changes.append(region.change(marks[position]))
            position += 1
    return changes


def _joined(changes: Iterable[_Change]) -> list[_Change]:
    """Return changes less those of nothing, and those that overlap as one, as two do in one number."""
    joined: list[_Change] = []
    for change in changes:
        if joined and change.start < joined[-1].end:
            joined[-1] = joined[-1]._replace(end=max(joined[-1].end, change.end))
        elif change.start < change.end:
            joined.append(change)
    return joined


def _regions(
    text: str, stretches: Sequence[tuple[int, int]]
) -> Iterator[tuple[Literal["text", "string", "value"], int, int]]:
    """Return what placeholders may be put into, in its order: text between JSON, and the tokens in it."""
    done = 0
    for start, end in stretches:
        if done < start:
            yield "text", done, start
        for token in _TOKEN.finditer(text, start, end):
            yield "string" if token[0][0] == '"' else "value", token.start(), token.end()
        done = end
    if done < len(text):
        yield "text", done, len(text)


class _Region:
    """One text or token that a placeholder may be put into."""

    def __init__(self, text: str, form: Literal["text", "string", "value"], start: int, end: int) -> None:
        self._text = text
        self._form = form
        self._start = start
        self._end = end
        self._escapes: Sequence[tuple[int, int]] | None = None

    def change(self, mark: Mark) -> _Change:
        """Return what has to be replaced here."""
        start, end = max(mark.start, self._start), min(mark.end, self._end)
        if self._form == "text":
            return _Change("text", start, end, mark.entity, mark.whole)
        if self._form == "value":
            return _Change("value", self._start, self._end, mark.entity)
        if start == self._start or end == self._end:  # a quote stays, so all that it quotes goes
            return _Change("string", self._start + 1, self._end - 1, mark.entity)
        return _Change("string", *self._widened(start, end), mark.entity)

    def _widened(self, start: int, end: int) -> tuple[int, int]:
        """Return a stretch of a string, and all of the escapes that begin or end in it."""
        if self._escapes is None:
            self._escapes = [escape.span() for escape in ESCAPE.finditer(self._text, self._start + 1, self._end - 1)]
        first = bisect_right(self._escapes, start, key=lambda escape: escape[0]) - 1
        if first >= 0 and self._escapes[first][1] > start:
            start = self._escapes[first][0]
        last = bisect_left(self._escapes, end, key=lambda escape: escape[0]) - 1
        if last >= 0 and self._escapes[last][1] > end:
            end = self._escapes[last][1]
        return start, end


def _restored_text(text: str, originals: Mapping[str, str]) -> str:
    return _BRACKETED.sub(lambda match: originals.get(match[0], match[0]), text)


def _restored_json(text: str, originals: Mapping[str, str]) -> str:
    def put(match: re.Match[str]) -> str:
        found = match[0]
        if found[0] != '"':
            return _encoded(found, originals)
        return originals[found] if found in originals else f'"{_encoded(found[1:-1], originals)}"'

    return _IN_JSON.sub(put, text)


def _encoded(placeholder: str, originals: Mapping[str, str]) -> str:
    """Return what stands behind a placeholder, as the inside of a JSON string has it."""
    source = originals.get(f"\\{placeholder}")
    if source is not None:
        return source
    original = originals.get(placeholder)
    return placeholder if original is None else jsontext.dumps(original)[1:-1]


def overlaps_json(text: str, marks: Iterable[Mark]) -> bool:
    """Return whether any of the marks touches JSON in a text."""
    stretches = json_stretches(text)
    return any(mark.start < end and start < mark.end for mark in marks for start, end in stretches)
