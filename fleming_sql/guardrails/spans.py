"""Guardrails that find stretches of text and can put something in their place."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import ClassVar, Final

from fleming_sql.guardrails.base import PASS, Finding, TextGuardrail, Verdict
from fleming_sql.guardrails.documents import Document, Part
from fleming_sql.guardrails.escapes import unescape
from fleming_sql.guardrails.splicing import Placeholders, Span, mask, restore, spliced, touches_json

_SEAM: Final = 256
"""Characters to either side of the place where two parts meet in which a find may lie that is of both."""
_BACK: Final = 64
"""Characters of the texts before one that may tell what stands in it."""
_TOLD: Final = 192
"""Characters at its beginning in which that may stand."""
_FILLER: Final = "|"
"""Stands for each character that was found already when the places are searched where parts meet."""
_LONGEST_NUMBER: Final = 5
"""Digits of a placeholder's number; more may be what is hidden as one."""

__all__ = ["Placeholders", "Span", "SpanGuardrail", "describe", "restore"]


class SpanGuardrail(TextGuardrail):
    """Finds stretches of text. A kind says what it finds in one text; parts, seams, masks and JSON are seen to here."""

    restores: bool = False
    """Whether placeholders are numbered, so that what stood in their place can be put back into the answer."""
    resolves_escapes: bool = False
    r"""Whether `find` sees through the escapes of JSON, such as `\u0040`, by itself."""
    looks_back: ClassVar[bool] = False
    """Whether words may tell something in the text after theirs, as the question does of an answer."""

    @abstractmethod
    def find(self, text: str) -> Sequence[Span]:
        """Return what is found in a text, in its order and without overlaps. It takes linear time."""

    def examine(self, document: Document) -> Verdict:
        """Return what was found in any part, and where two parts that are read as one text meet."""
        parts = document.parts
        if len(parts) == 1:  # nearly all
            spans = self._in_part(parts[0].text)
            return self._verdict(document, [spans], ()) if spans else PASS
        found: list[Sequence[Span]] = [self._in_part(part.text) for part in parts]
        across = [pieces for first, last in _runs(parts) for pieces in self._across(parts, found, first, last)]
        self._search_rests(parts, found, across)
        if self.looks_back:
            self._look_back(parts, found, across)
        return self._verdict(document, found, across) if across or any(found) else PASS

    def _verdict(
        self, document: Document, found: Sequence[Sequence[Span]], across: Sequence[Sequence[Finding]]
    ) -> Verdict:
        findings = [
            Finding(entity, number, start, end) for number, spans in enumerate(found) for start, end, entity in spans
        ]
        findings += [pieces[0] for pieces in across]
        placeholders = Placeholders(document.texts if self.restores else None)
        texts = _masked(document.parts, found, across, placeholders)
        return Verdict(describe(findings), findings, texts, placeholders.originals)

    def _in_part(self, text: str) -> Sequence[Span]:
        """Return what is found in a text, less what is a placeholder already."""
        spans = self.find(text)
        if "\\" in text and not self.resolves_escapes:
            spans = self._with_escaped(text, spans)
        if spans and "<" in text:
            return [span for span in spans if not _is_placeholder(text, span)]
        return spans

    def _with_escaped(self, text: str, spans: Sequence[Span]) -> Sequence[Span]:
        """Return what is found, and what is found with the escapes of JSON resolved."""
        meant = unescape(text)
        if meant is None:
            return spans
        inside = [Span(*meant.place(span.start, span.end), span.entity) for span in self.find(meant.text)]
        inside += [span for span in spans if not meant.cuts(span.start)]
        return joined(sorted(inside))

    def _across(
        self, parts: Sequence[Part], found: list[Sequence[Span]], first: int, last: int
    ) -> Iterator[list[Finding]]:
        """Return what begins in one part and ends in a later one that is read on with it, as its pieces.

        What was found in a part stays as it was found, unless it turns out to be a piece of something else. What
        remains is searched again without it.
        """
        starts = [0, *accumulate(len(part.text) for part in parts[first:last])]
        text = rest = "".join(part.text for part in parts[first:last])
        taken: list[Span] = []
        for _ in range(2):
            is_clear = True
            for span in self._at_seams(rest, starts):
                pieces = list(_pieces(span, starts, first))
                if not all(_gives_way(piece, found[piece.part]) for piece in pieces):
                    is_clear = False
                elif rest[span.start : span.end] == text[span.start : span.end]:
                    for piece in pieces:
                        found[piece.part] = _clear_of(piece, found[piece.part])
                    taken.append(span)
                    yield pieces
            if is_clear:
                return
            own = [
                Span(begin + span.start, begin + span.end, span.entity)
                for begin, spans in zip(starts, found[first:last], strict=False)
                for span in spans
            ]
            rest = _filled(text, sorted([*taken, *own]))

    def _search_rests(
        self, parts: Sequence[Part], found: list[Sequence[Span]], across: Sequence[Sequence[Finding]]
    ) -> None:
        """Add what is found in a part only once the piece in it of something else is gone."""
        taken = _taken(found, across)
        for number in dict.fromkeys(piece.part for pieces in across for piece in pieces):
            rest = _filled(parts[number].text, taken[number])
            new = [span for span in self._in_part(rest) if not _overlaps(span, taken[number])]
            found[number] = sorted([*found[number], *new])

    def _look_back(
        self, parts: Sequence[Part], found: list[Sequence[Span]], across: Sequence[Sequence[Finding]]
    ) -> None:
        """Add what is found at the beginning of a part only with the end of what is read before it."""
        taken = _taken(found, across)
        for first, last in _runs(parts):
            before = ""
            for number in range(first, last):
                text = parts[number].text
                if before and text:
                    told = self._told_by(before, text)
                    new = [span for span in told if not _overlaps(span, taken[number])]
                    if new:
                        found[number] = sorted([*found[number], *new])
                before = f"{before}\n{text}"[-_BACK:]

    def _told_by(self, before: str, text: str) -> Iterator[Span]:
        """Return what is found at the beginning of a text that stands after another one."""
        begin = len(before) + 1
        for span in self.find(f"{before}\n{text[:_TOLD]}"):
            if span.start >= begin and (span.end < begin + _TOLD or len(text) <= _TOLD):
                yield Span(span.start - begin, span.end - begin, span.entity)

    def _at_seams(self, text: str, starts: Sequence[int]) -> Iterator[Span]:
        """Return what is found in a text across one of `starts`, at least."""
        seams = [seam for seam in dict.fromkeys(starts) if 0 < seam < len(text)]
        if len(text) <= 2 * _SEAM * len(seams):
            windows = [(0, len(text), seams)]
        else:
            windows = [(max(0, seam - _SEAM), min(len(text), seam + _SEAM), [seam]) for seam in seams]
        done = 0
        for begin, end, inside in windows:
            for span in self.find(text[begin:end]):
                start, stop = begin + span.start, begin + span.end
                is_cut_off = (start == begin and begin > 0) or (stop == end and end < len(text))
                if start >= done and not is_cut_off and _holds(inside, start, stop):
                    done = stop
                    yield Span(start, stop, span.entity)


def describe(findings: Iterable[Finding]) -> str:
    """Return what was found, without the words themselves.

    Example:
        >>> describe([Finding("EMAIL_ADDRESS", 0, 3, 12), Finding("EMAIL_ADDRESS", 0, 20, 29)])
        'found EMAIL_ADDRESS (2)'
    """
    counts: dict[str, int] = {}  # a Counter takes longer than all the rest where there is little to count
    for finding in findings:
        counts[finding.entity] = counts.get(finding.entity, 0) + 1
    return "found " + ", ".join([f"{entity} ({count})" for entity, count in counts.items()])


def _masked(
    parts: Sequence[Part],
    found: Sequence[Sequence[Span]],
    across: Sequence[Sequence[Finding]],
    placeholders: Placeholders,
) -> list[str]:
    wholes: list[dict[int, str]] = [{} for _ in parts]
    for pieces in across:
        if any(touches_json(parts[piece.part].text, piece.start, piece.end) for piece in pieces):
            continue  # JSON may need something in the place of each piece
        # What stands in several parts is put into the first, and the rest of it is taken out.
        whole = "".join(parts[piece.part].text[piece.start : piece.end] for piece in pieces)
        for position, piece in enumerate(pieces):
            wholes[piece.part][piece.start] = "" if position else whole
    return [
        mask(part.text, spans, placeholders, own) if spans else part.text
        for part, spans, own in zip(parts, _taken(found, across), wholes, strict=True)
    ]


def _taken(found: Sequence[Sequence[Span]], across: Sequence[Sequence[Finding]]) -> list[list[Span]]:
    """Return all that was found in each part, the pieces of what goes on in others too, in its order."""
    taken = [list(spans) for spans in found]
    for pieces in across:
        for piece in pieces:
            insort(taken[piece.part], Span(piece.start, piece.end, piece.entity))
    return taken


def _pieces(span: Span, starts: Sequence[int], first: int) -> Iterator[Finding]:
    """Return the pieces of a stretch of several parts, of which `starts` says where each begins, and the last ends."""
    number = bisect_right(starts, span.start) - 1
    while number < len(starts) - 1 and starts[number] < span.end:
        begin = starts[number]
        start, end = max(span.start, begin), min(span.end, starts[number + 1])
        if start < end:
            yield Finding(span.entity, first + number, start - begin, end - begin)
        number += 1


def _holds(places: Sequence[int], start: int, end: int) -> bool:
    """Return whether one of `places`, which are in their order, is between two others."""
    position = bisect_right(places, start)
    return position < len(places) and places[position] < end


def _gives_way(piece: Finding, spans: Iterable[Span]) -> bool:
    """Return whether all that was found in the place of a piece is a part of it, and was taken for something else."""
    return all(
        piece.start <= span.start and span.end <= piece.end and span.entity != piece.entity
        for span in spans
        if span.start < piece.end and piece.start < span.end
    )


def _overlaps(span: Span, others: Iterable[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)


def _clear_of(piece: Finding, spans: Sequence[Span]) -> Sequence[Span]:
    return [span for span in spans if span.end <= piece.start or piece.end <= span.start]


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return spans, given in their order, those that overlap as one: what the longer of them is."""
    merged: list[Span] = []
    for span in spans:
        if merged and span.start < merged[-1].end:
            before = merged[-1]
            longer = max(before, span, key=_length)
            merged[-1] = Span(before.start, max(before.end, span.end), longer.entity)
        else:
            merged.append(span)
    return merged


def _length(span: Span) -> int:
    return span.end - span.start


def _filled(text: str, stretches: Iterable[tuple[int, int, str]]) -> str:
    """Return a text with stretches of it, given in their order, filled with what is no word."""
    return spliced(text, 0, len(text), ((start, end, _FILLER * (end - start)) for start, end, _ in stretches))


def _runs(parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """Return the stretches of more than one part that are read as one text."""
    first = 0
    for position in range(1, len(parts) + 1):
        if position == len(parts) or not _reads_on(parts[position - 1], parts[position]):
            if position - first > 1:
                yield first, position
            first = position


def _reads_on(part: Part, following: Part) -> bool:
    return part.run == following.run and not part.is_number and not following.is_number


def _is_placeholder(text: str, span: Span) -> bool:
    """Return whether a span lies in a placeholder of its own entity, which is what masking it again would find."""
    reach = len(span.entity) + _LONGEST_NUMBER + 2
    begin = text.rfind("<", max(0, span.start - reach), span.start + 1)
    end = text.find(">", span.end - 1, span.end + reach)
    if begin < 0 or end < 0:
        return False
    name, entity = text[begin + 1 : end], span.entity
    number = name[len(entity) + 1 :]
    return name == entity or (
        name == f"{entity}_{number}" and len(number) <= _LONGEST_NUMBER and number.isascii() and number.isdigit()
    )
