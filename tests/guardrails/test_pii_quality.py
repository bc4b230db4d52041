"""The labelled corpus, and how well the guardrail kind `pii` does on it."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest

from benchmarks.pii import DEVELOPMENT, make_find
from benchmarks.pii_corpus import Entity, Example, load
from benchmarks.pii_corpus.make import make
from benchmarks.pii_corpus.scoring import Tally, score, total

FLOORS = {
    "CREDIT_CARD": 0.98,
    "CRYPTO": 0.98,
    "EMAIL_ADDRESS": 0.98,
    "IBAN_CODE": 0.98,
    "PHONE_NUMBER": 0.95,
    "API_KEY": 0.97,
    "DRIVER_LICENSE": 0.97,
    "IP_ADDRESS": 0.97,
    "MAC_ADDRESS": 0.97,
    "PASSPORT": 0.97,
    "URL_CREDENTIALS": 0.97,
    "US_BANK_NUMBER": 0.97,
    "US_SSN": 0.97,
}
"""Of precision and of recall. The first five are what is wanted, the others a little less than what was reached."""
OBFUSCATED_FLOOR = 0.95
HELD_OUT_FLOORS = (0.93, 0.97)
"""Of precision and of recall, a little less than when these texts were scored for the first time: 0.954 and 1.000."""
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18,
    "EE": 20, "ES": 24,
    "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27, "LT": 20,
    "LU": 20, "LV": 21,
    "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SA": 24, "SE": 24, "SI": 19, "SK": 24,
    "TR": 26, "UA": 29,
}  # fmt: skip


@cache
def corpus() -> list[Example]:
    return load()


@cache
def tallies() -> dict[str, Tally]:
    return score([example for example in corpus() if example.source in DEVELOPMENT], make_find())[0]


def labelled(entity: str) -> list[str]:
    return [
        example.text[label.start : label.end]
        for example in corpus()
        for label in example.entities
        if label.type == entity and example.source != "obfuscated"
    ]


def passes_luhn(number: str) -> bool:
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(number))]
    return sum(digit // 10 + digit % 10 for digit in doubled) % 10 == 0


@pytest.mark.parametrize("entity", FLOORS)
def test_predictions_of_an_entity_are_right(entity: str) -> None:
    assert tallies()[entity].precision >= FLOORS[entity]


@pytest.mark.parametrize("entity", FLOORS)
def test_labels_of_an_entity_are_found(entity: str) -> None:
    assert tallies()[entity].recall >= FLOORS[entity]


def test_hidden_values_are_found() -> None:
    hidden = [example for example in corpus() if example.source == "obfuscated"]

    whole = total(score(hidden, make_find())[0])

    assert min(whole.precision, whole.recall) >= OBFUSCATED_FLOOR


def test_nothing_is_found_that_the_corpus_does_not_know() -> None:
    assert set(tallies()) <= set(FLOORS)


def test_texts_that_nothing_was_developed_on_are_read_almost_as_well() -> None:
    held_out = [example for example in corpus() if example.source == "held_out"]

    whole = total(score(held_out, make_find())[0])

    assert (whole.precision >= HELD_OUT_FLOORS[0], whole.recall >= HELD_OUT_FLOORS[1]) == (True, True)


def test_finds_in_one_text_do_not_overlap() -> None:
    find = make_find()

    overlapping = [
        example.text
        for example in corpus()
        for one, other in pairwise(sorted(find(example.text), key=lambda entity: entity.start))
        if other.start < one.end
    ]

    assert overlapping == []


def test_the_corpus_is_large_enough() -> None:
    assert len(corpus()) >= 2_400


def test_about_half_of_the_texts_have_no_personal_data() -> None:
    without = sum(not example.entities for example in corpus())

    assert 0.4 <= without / len(corpus()) <= 0.6


def test_every_entity_has_a_hundred_labels() -> None:
    counts = Counter(label.type for example in corpus() for label in example.entities if not label.optional)

    assert set(counts) == set(FLOORS)
    assert min(counts.values()) >= 100


def test_no_text_is_there_twice() -> None:
    assert len({example.text for example in corpus()}) == len(corpus())


def test_labels_lie_in_their_text_and_do_not_overlap() -> None:
    for example in corpus():
        end = 0
        for label in example.entities:
            assert end <= label.start < label.end <= len(example.text)
            end = label.end


def test_labels_begin_and_end_with_the_value_itself() -> None:
    values = [
        example.text[label.start : label.end]
        for example in corpus()
        for label in example.entities
        if example.source != "obfuscated"
    ]

    assert [value for value in values if value != value.strip(" ,;\n\t")] == []


def test_labelled_cards_pass_the_luhn_check() -> None:
    numbers = [re.sub(r"\D", "", card) for card in labelled("CREDIT_CARD")]

    assert [number for number in numbers if not (14 <= len(number) <= 16 and passes_luhn(number))] == []


def test_labelled_ibans_have_their_length_and_checksum() -> None:
    for value in labelled("IBAN_CODE"):
        iban = re.sub(r"[\W_]", "", value).upper()
        assert len(iban) == IBAN_LENGTHS[iban[:2]]
        assert int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def test_labelled_addresses_of_emails_have_an_at_and_a_domain() -> None:
    assert [
        value for value in labelled("EMAIL_ADDRESS") if not re.fullmatch(r"[^@\s]+(@|%40)[^@\s]+\.[^@\s.]+", value)
    ] == []


def test_the_corpus_is_what_its_maker_makes() -> None:
    made = [(one.text, list(one.entities), one.source, one.topic) for one in make()]

    assert made == [(one.text, list(one.entities), one.source, one.topic) for one in corpus()]


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ([], (0, 0)),
        ([Entity("EMAIL_ADDRESS", 4, 9)], (1, 1)),
        ([Entity("EMAIL_ADDRESS", 0, 4)], (0, 0)),
        ([Entity("IP_ADDRESS", 4, 9)], (0, 0)),
        ([Entity("EMAIL_ADDRESS", 4, 6), Entity("EMAIL_ADDRESS", 7, 9)], (2, 1)),
    ],
)
def test_a_prediction_is_right_when_its_type_is_and_it_overlaps(
    predictions: list[Entity], expected: tuple[int, int]
) -> None:
    example = Example("ask a@b.c now", [Entity("EMAIL_ADDRESS", 4, 9)], "hand", "hand")

    whole = total(score([example], lambda text: predictions)[0])

    assert (whole.right, whole.found) == expected


def test_an_optional_label_counts_neither_way() -> None:
    example = Example("021000021", [Entity("US_BANK_NUMBER", 0, 9, optional=True)], "hand", "hand")

    found = total(score([example], lambda text: [Entity("US_BANK_NUMBER", 0, 9)])[0])
    missed = total(score([example], lambda text: [])[0])

    assert (found.predicted, missed.labelled) == (0, 0)
