"""How well and how fast the guardrail kind `pii` finds personal data, with Presidio's pattern recognisers beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from benchmarks.pii_corpus import Entity, Example, load, presidio
from benchmarks.pii_corpus.scoring import Find, Tally, score, total
from benchmarks.table import Row
from fleming_sql import jsontext
from fleming_sql.guardrails import Surroundings, make_guardrail
from fleming_sql.guardrails.base import TextGuardrail, Verdict
from fleming_sql.guardrails.documents import Document, Part

WANTED: Final[Mapping[str, float]] = {
    "CREDIT_CARD": 0.98,
    "CRYPTO": 0.98,
    "EMAIL_ADDRESS": 0.98,
    "IBAN_CODE": 0.98,
    "PHONE_NUMBER": 0.95,
}
"""What precision and recall have to reach."""
DEVELOPMENT: Final = frozenset({"generated", "hand"})
"""Sources of the texts that the detector was developed on."""
_NOT_IN_PRESIDIO: Final = frozenset({"API_KEY", "URL_CREDENTIALS"})

CLEAN: Final = (
    "Please summarise the following complaint in three sentences and keep the tone neutral: the customer ordered a "
    "blue jacket for her sister, received a green one instead, sent it back the same week and has been waiting for the "
    "money since. She would like to know when it arrives and who is responsible."
).ljust(300, ".")
NEAR_MISSES: Final = (
    "Order ORD-303913771 of 2024-03-15, invoice INV-2024-48121, parcel 1Z999AA10123456784: version 4.2.1.0 of the app "
    "fails with code 80070005 at 10:22:31.123, request 550e8400-e29b-41d4-a716-446655440000, commit "
    "9fceb02d0ae598e95dc9. Paid 1,234.50 EUR, see section 3.4 and doi 10.1038/s41586-021."
).ljust(300, ".")
SEVEN_HITS: Final = (
    "Hello, this is Ann. Card 4242 4242 4242 4242 was charged twice. Call me on +1 (206) 555-0123 or write to "
    "ann@example.com. My SSN is 536-22-8714, the refund goes to DE89 3704 0044 0532 0130 00, I signed in from "
    "203.0.113.77 and the laptop has the MAC address 3c:22:fb:01:02:a3. Please answer soon"
).ljust(300, ".")
_UNPLEASANT: Final = ("1", "a.", "a@", "1 ", "::", "@", "1-", "eyJ", "+4", "a:b@", "0x", "(1)")
"""What a text is made of that may tempt a pattern to look at it again and again."""
_KEYWORDS: Final = 10_000


def quality() -> list[Row]:
    """Score ours and Presidio on the corpus, the obfuscated texts apart."""
    examples = load()
    plain = [example for example in examples if example.source in DEVELOPMENT]
    held_out = [example for example in examples if example.source == "held_out"]
    hidden = [example for example in examples if example.source == "obfuscated"]
    ours = make_find()
    beside = presidio.make_find() if presidio.is_installed() else None
    without = sum(not example.entities for example in plain)
    return [
        Row("PII, texts in the corpus, of them without personal data", f"{len(plain):,}, {without:,}"),
        Row("PII, texts apart: obfuscated, held out", f"{len(hidden)}, {len(held_out)}"),
        *_entity_rows(plain, ours, beside),
        *_total_rows(plain, hidden, held_out, ours, beside),
    ]


def speed() -> list[Row]:
    """Time the whole guardrail on texts of several kinds and lengths, and keywords beside it."""
    pii = _pii()
    examine = _examiner(pii)
    beside = presidio.make_find() if presidio.is_installed() else None
    rows = [
        _speed_row("300 characters of prose", CLEAN, examine, beside, 20, 0),
        _speed_row("300 characters of near misses", NEAR_MISSES, examine, beside, 20, 0),
        _speed_row("300 characters with seven hits", SEVEN_HITS, examine, beside, 60, 7),
    ]
    return [*rows, *_length_rows(examine, beside), _unpleasant_row(examine), _keywords_row()]


def make_find() -> Find:
    """Return the guardrail kind `pii` as something that finds."""
    examine = _examiner(_pii())

    def find(text: str) -> Sequence[Entity]:
        return [Entity(one.entity, one.start, one.end) for one in examine(text).findings]

    return find


def _pii() -> TextGuardrail:
    guardrail = make_guardrail("pii", "mask", "{}", Surroundings())
    assert isinstance(guardrail, TextGuardrail)
    return guardrail


def _examiner(guardrail: TextGuardrail) -> Callable[[str], Verdict]:
    return lambda text: guardrail.examine(Document("input", (Part(text, "messages[0].content", "user"),)))


def _entity_rows(examples: Sequence[Example], ours: Find, beside: Find | None) -> list[Row]:
    tallies, _ = score(examples, ours)
    others = score(examples, beside)[0] if beside else {}
    return [
        Row(
            f"PII, {entity}: precision, recall ({tally.labelled} labels)",
            _figures(tally) + _presidio(others.get(entity), beside is not None, entity),
            f">= {WANTED[entity]}" if entity in WANTED else "",
            min(tally.precision, tally.recall) >= WANTED[entity] if entity in WANTED else None,
        )
        for entity, tally in sorted(tallies.items())
    ]


def _total_rows(
    plain: Sequence[Example],
    hidden: Sequence[Example],
    held_out: Sequence[Example],
    ours: Find,
    beside: Find | None,
) -> list[Row]:
    rows = []
    named = (("all entities", plain), ("all entities, obfuscated", hidden), ("all entities, held out", held_out))
    for what, examples in named:
        other = total(score(examples, beside)[0]) if beside else None
        rows.append(
            Row(
                f"PII, {what}: precision, recall",
                _figures(total(score(examples, ours)[0])) + _presidio(other, beside is not None),
            )
        )
    # Presidio has no recogniser for keys and URLs, so that the totals above do not compare like with like.
    if beside:
        both = [example for example in plain if not any(one.type in _NOT_IN_PRESIDIO for one in example.entities)]
        rows.append(
            Row(
                "PII, texts without keys and URLs, which Presidio does not look for",
                _figures(total(score(both, ours)[0])) + _presidio(total(score(both, beside)[0]), True),
            )
        )
    return rows


def _figures(tally: Tally) -> str:
    return f"{tally.precision:.3f}, {tally.recall:.3f}, {tally.exactness:.1%} of the spans exact"


def _presidio(tally: Tally | None, is_installed: bool, entity: str = "") -> str:
    if not is_installed:
        return "; Presidio: not installed"
    if tally is None or entity in _NOT_IN_PRESIDIO:
        return "; Presidio: none"
    return f"; Presidio: {tally.precision:.3f}, {tally.recall:.3f}"


def _speed_row(
    what: str, text: str, examine: Callable[[str], Verdict], beside: Find | None, limit_us: float, hits: int
) -> Row:
    found = len(examine(text).findings)
    us = _us(lambda: examine(text))
    measured = f"{us:.1f} us, {found} found" + _presidio_us(beside, text)
    return Row(f"PII, {what}", measured, f"< {limit_us:g} us, {hits} found", us < limit_us and found == hits)


def _length_rows(examine: Callable[[str], Verdict], beside: Find | None) -> list[Row]:
    """Time a text, and the same one ten times over."""
    random = Random(7)  # noqa: S311  an order, not a secret
    examples = [example for example in load() if example.source in DEVELOPMENT]
    random.shuffle(examples)
    short = "\n".join(example.text for example in examples)[:2_000]
    long = short * 10
    short_us, long_us = _us(lambda: examine(short)), _us(lambda: examine(long))
    ratio = long_us / short_us
    found = len(examine(long).findings)
    return [
        Row("PII, 20 kB of texts from the corpus", f"{long_us:,.0f} us, {found} found" + _presidio_us(beside, long)),
        Row("PII, 20 kB to 2 kB of the same, time", f"{ratio:.1f} times", "<= 12 times (linear)", ratio <= 12),
    ]


def _unpleasant_row(examine: Callable[[str], Verdict]) -> Row:
    """Time texts that repeat what patterns begin with, at two lengths: the worst ratio tells whether time is linear."""
    ratios = {}
    for piece in _UNPLEASANT:
        short, long = (piece * (size // len(piece)) for size in (2_000, 20_000))
        ratios[piece] = (_us(_call(examine, long), 5) / _us(_call(examine, short), 20), long)
    piece, (ratio, long) = max(ratios.items(), key=lambda item: item[1][0])
    ms = _us(_call(examine, long), 3) / 1000
    return Row(
        f"PII, 20 kB to 2 kB of one thing over and over, {len(ratios)} of them, worst time",
        f"{ratio:.1f} times ({piece!r}, {ms:.1f} ms)",
        "<= 15 times (linear)",
        ratio <= 15,
    )


def _keywords_row() -> Row:
    random = Random(11)  # noqa: S311  made-up words, not secrets
    keywords = {
        "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randrange(5, 14))) for _ in range(_KEYWORDS)
    }
    guardrail = make_guardrail("keywords", "block", jsontext.dumps({"keywords": sorted(keywords)}), Surroundings())
    assert isinstance(guardrail, TextGuardrail)
    examine = _examiner(guardrail)
    us = _us(lambda: examine(CLEAN))
    return Row(f"keywords, {len(keywords):,} of them, 300 characters", f"{us:.1f} us", "< 10 us", us < 10)


def _presidio_us(beside: Find | None, text: str) -> str:
    if beside is None:
        return "; Presidio: not installed"
    return f"; Presidio: {_us(lambda: beside(text), 50):,.0f} us, {len(beside(text))} found"


def _call(examine: Callable[[str], Verdict], text: str) -> Callable[[], object]:
    return lambda: examine(text)


def _us(run: Callable[[], object], calls: int = 500) -> float:
    """Return what a call takes: of seven rounds the quickest, since other work on the machine only adds to it.

    A round is cut short when its calls are slow.
    """
    run()
    rounds = []
    for _ in range(7):
        done, began = 0, time.perf_counter()
        while done < calls and time.perf_counter() - began < 0.3:
            for _ in range(5):
                run()
            done += 5
        rounds.append((time.perf_counter() - began) / done * 1e6)
    return min(rounds)
