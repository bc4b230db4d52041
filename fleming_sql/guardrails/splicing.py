"""Placeholders put into texts, and taken out again: what is JSON stays JSON.

A text may be JSON, hold it in a Markdown fence, or be neither. In JSON a placeholder is put into the string that holds
what was found; a number, which cannot hold it, becomes a string. Escapes are taken out whole, and quotes, braces and
commas stay where they are, whatever was found.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
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
_COLON: Final = re.compile(r"\s*+:")
_SPACE: Final = re.compile(r"\s*")
_KEY: Final = re.compile(r'"((?:[^"\\]++|\\.)*+)"(\s*+:)?|[{}]', re.DOTALL)
"""A string of a text that is known to be JSON, with a colon where it is a key, or where an object begins or ends."""
_MOST_FAILURES: Final = 100
"""Fences without JSON in a text until no more of them are read: each error counts the lines before it."""
_BRACKETED: Final = re.compile(r"<[^<>]*>")
_IN_JSON: Final = re.compile(r'(?<!\\)"<[^<>"]*>"|<[^<>]*>')
_DECODER: Final = json.JSONDecoder()


class Span(NamedTuple):
    """A stretch of one text."""

    start: int
    end: int
    """In characters; exclusive."""
    entity: str


class Placeholders:
    """What is put in the place of what was found, in one document.

    Args:
        texts: Of the document where placeholders are numbered: the same value gets the same number, and none that
            stands in the texts already; None where all of an entity are alike.
    """

    def __init__(self, texts: Sequence[str] | None) -> None:
        self._texts = texts
        self._given: dict[tuple[str, str, bool], str] = {}
        self._numbers: dict[str, int] = {}
        self._taken: frozenset[str] | None = None
        self.originals: dict[str, str] = {}
        """Placeholder to what it stands for; only where they are numbered.

        A second key says what stands in JSON where that is not the same value, encoded: a placeholder in quotes for
        what was no string, and one after a backslash for a string that was written with other escapes.
        """

    @property
    def are_numbered(self) -> bool:
        """Whether different values have different placeholders."""
        return self._texts is not None

    def of_text(self, entity: str, original: str) -> str:
        """Return what is put in the place of `original`, which is nothing in the place of nothing."""
        if not original:
            return ""
        return f"<{entity}>" if self._texts is None else self._placeholder(entity, original)

    def of_string(self, entity: str, source: str) -> str:
        """Return what is put in the place of a piece of the source of a JSON string."""
        if self._texts is None:
            return f"<{entity}>"
        meaning = _meaning(source)
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
            number = self._numbers[entity] = self._numbers.get(entity, 0) + 1
            placeholder = f"<{entity}_{number}>"
            if placeholder not in self._taken:
                return placeholder


class FreeKeys:
    """The keys of one object, some of which were changed: two that became the same are told apart by a number."""

    def __init__(self) -> None:
        self._taken: dict[str, bool] = {}
        self._numbers: dict[str, int] = {}

    def free(self, key: str, seen: str) -> str:
        """Return what `key` is called, which became `seen`. Keys that were the same before stay so.

        Example:
            >>> keys = FreeKeys()
            >>> [keys.free("a@b.org", "<X>"), keys.free("c@d.org", "<X>")]
            ['<X>', '<X> (2)']
        """
        is_new = seen != key
        free, was_new = seen, self._taken.get(seen)
        if was_new is not None and (is_new or was_new):
            is_new, number = True, self._numbers.get(seen, 1)
            while free in self._taken:
                number += 1
                free = f"{seen} ({number})"
            self._numbers[seen] = number
        self._taken[free] = is_new
        return free


def mask(text: str, spans: Sequence[Span], placeholders: Placeholders, wholes: Mapping[int, str]) -> str:
    """Return a text with placeholders in the place of what was found; what is JSON stays JSON.

    Args:
        text: The text.
        spans: What was found, in its order and without overlaps.
        placeholders: Gives them.
        wholes: By the start of a span in what is no JSON, what it is a piece of, where that goes on in the next text;
            empty for a later piece.
    """
    stretches = json_stretches(text)
    if stretches:
        changes = _joined(_changes(text, stretches, spans))
        news = [(change.start, change.end, _new(text, change, placeholders, wholes)) for change in changes]
        if not placeholders.are_numbered:
            news = _with_free_keys(text, stretches, news)
    else:
        news = [
            (start, end, placeholders.of_text(entity, wholes.get(start, text[start:end])))
            for start, end, entity in spans
        ]
    return spliced(text, 0, len(text), news)


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


def _new(text: str, change: _Change, placeholders: Placeholders, wholes: Mapping[int, str]) -> str:
    form, start, end, entity = change
    if form == "value":
        return placeholders.of_value(entity, text[start:end])
    if form == "string":
        return placeholders.of_string(entity, text[start:end])
    return placeholders.of_text(entity, wholes.get(start, text[start:end]))


def _changes(text: str, stretches: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[_Change]:
    """Return what has to be replaced for `spans` to be gone from a text that holds JSON."""
    changes: list[_Change] = []
    first = 0
    for form, begin, stop in _regions(text, stretches):
        while first < len(spans) and spans[first].end <= begin:
            first += 1
        if first == len(spans):
            break
        region = _Region(text, form, begin, stop)
        position = first
        while position < len(spans) and spans[position].start < stop:
            changes.append(region.change(spans[position]))
            position += 1
    return changes


def _with_free_keys(
    text: str, stretches: Sequence[tuple[int, int]], news: Sequence[tuple[int, int, str]]
) -> list[tuple[int, int, str]]:
    """Return replacements, and numbers for the keys of an object that they would make the same."""
    numbered: list[tuple[int, int, str]] = []
    done = 0
    for begin, end, keys in _keys(text, stretches):
        while done < len(news) and news[done][0] < begin:
            numbered.append(news[done])
            done += 1
        first = done
        while done < len(news) and news[done][1] <= end:
            done += 1
        numbered += news[first:done]
        key = _meaning(text[begin:end])
        seen = _meaning(spliced(text, begin, end, news[first:done])) if first < done else key
        number = keys.free(key, seen)[len(seen) :]
        if number:
            numbered.append((end, end, number))
    return [*numbered, *news[done:]]


def _keys(text: str, stretches: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, FreeKeys]]:
    """Return where the keys in JSON stand, without their quotes, each with those of its object."""
    for start, end in stretches:
        objects: list[FreeKeys] = []
        for found in _KEY.finditer(text, start, end):
            if found[0] == "{":
                objects.append(FreeKeys())
            elif found[0] == "}":
                objects.pop()
            elif found[2] is not None:
                yield *found.span(1), objects[-1]


def spliced(text: str, start: int, end: int, news: Iterable[tuple[int, int, str]]) -> str:
    """Return a stretch of a text with other pieces in it, given in their order by where they go."""
    pieces: list[str] = []
    for begin, stop, new in news:
        pieces += (text[start:begin], new)
        start = stop
    pieces.append(text[start:end])
    return "".join(pieces)


def _meaning(source: str) -> str:
    return jsontext.loads(f'"{source}"') if "\\" in source else source


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

    def change(self, span: Span) -> _Change:
        """Return what has to be replaced here."""
        start, end = max(span.start, self._start), min(span.end, self._end)
        if self._form == "text":
            return _Change("text", start, end, span.entity)
        if self._form == "value":
            return _Change("value", self._start, self._end, span.entity)
        if start == self._start or end == self._end:  # a quote stays, so all that it quotes goes
            return _Change("string", self._start + 1, self._end - 1, span.entity)
        return _Change("string", *self._widened(start, end), span.entity)

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
        if found in originals and not _COLON.match(text, match.end()):
            return originals[found]
        return f'"{_encoded(found[1:-1], originals)}"'  # a key is a string, whatever it was

    return _IN_JSON.sub(put, text)


def _encoded(placeholder: str, originals: Mapping[str, str]) -> str:
    """Return what stands behind a placeholder, as the inside of a JSON string has it."""
    source = originals.get(f"\\{placeholder}")
    if source is not None:
        return source
    original = originals.get(placeholder)
    return placeholder if original is None else jsontext.dumps(original)[1:-1]


def touches_json(text: str, start: int, end: int) -> bool:
    """Return whether a stretch of a text touches JSON in it."""
    return any(start < stop and begin < end for begin, stop in json_stretches(text))
