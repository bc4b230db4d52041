from __future__ import annotations

import pytest

from fleming_sql.guardrails import BadConfig, Surroundings, make_guardrail
from fleming_sql.guardrails.base import PASS
from fleming_sql.guardrails.documents import Document, Part
from fleming_sql.guardrails.length import Length

WORDS = Surroundings(count_tokens=lambda text: len(text.split()))


def _reason(config: dict[str, int], *parts: Part) -> str | None:
    return Length(config, "block", WORDS).examine(Document("input", parts)).reason


def _part(text: str, role: str = "user") -> Part:
    return Part(text, "messages[0].content", role)


@pytest.mark.parametrize("length", [3, 4, 5])
def test_a_text_within_the_bounds_passes(length: int) -> None:
    guardrail = Length({"min_chars": 3, "max_chars": 5}, "block", WORDS)

    assert guardrail.examine(Document("input", (_part("x" * length),))) is PASS


def test_a_text_that_is_too_long_is_told_with_its_length() -> None:
    assert _reason({"max_chars": 10_000}, _part("x" * 12_345)) == "12,345 characters, more than max_chars 10,000"


def test_a_text_that_is_too_short_is_told_with_its_length() -> None:
    assert _reason({"min_chars": 3}, _part("ab")) == "2 characters, fewer than min_chars 3"


def test_a_text_of_too_many_tokens_is_told_with_their_number() -> None:
    assert _reason({"max_tokens": 2}, _part("one two three")) == "3 tokens, more than max_tokens 2"


def test_all_bounds_that_are_broken_are_told() -> None:
    assert _reason({"max_chars": 3, "max_tokens": 1}, _part("a b c")) == (
        "5 characters, more than max_chars 3; 3 tokens, more than max_tokens 1"
    )


def test_characters_are_counted_not_bytes() -> None:
    assert _reason({"max_chars": 2}, _part("日本")) is None


def test_all_parts_count_together() -> None:
    assert _reason({"max_chars": 5}, _part("abc", "system"), _part("def")) == "6 characters, more than max_chars 5"


def test_parameters_do_not_count() -> None:
    assert _reason({"max_chars": 5}, _part("abc"), _part("a tool that does much", "parameter")) is None


def test_no_text_at_all_is_shorter_than_any_bound() -> None:
    assert _reason({"min_chars": 1}) == "0 characters, fewer than min_chars 1"


def test_it_masks_nothing() -> None:
    assert "mask" not in Length.behaviors


def test_bounds_that_no_text_keeps_are_refused() -> None:
    with pytest.raises(BadConfig, match="min_chars 6 is more than max_chars 5"):
        Length({"min_chars": 6, "max_chars": 5}, "block", WORDS)


@pytest.mark.parametrize(
    "config",
    ["{}", '{"max_chars": "5"}', '{"max_chars": -1}', '{"max_chars": 1.5}', '{"min_tokens": 5}', '{"max_chars": null}'],
)
def test_a_config_of_another_form_is_refused(config: str) -> None:
    with pytest.raises(BadConfig):
        make_guardrail("length", "block", config, WORDS)
