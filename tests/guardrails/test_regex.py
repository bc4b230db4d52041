from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.guardrails import BadConfig, Surroundings, make_guardrail
from fleming_sql.guardrails import regex as module
from fleming_sql.guardrails.documents import read_answer
from fleming_sql.guardrails.regex import Regex
from fleming_sql.guardrails.spans import Span


def _regex(pattern: str) -> Regex:
    return Regex({"pattern": pattern}, "block", Surroundings())


def _found(pattern: str, text: str) -> list[str]:
    return [text[span.start : span.end] for span in _regex(pattern).find(text)]


def test_all_matches_are_found_from_left_to_right() -> None:
    assert _regex(r"T-\d+").find("T-1 and T-22") == [Span(0, 3, "REGEX"), Span(8, 12, "REGEX")]


def test_a_pattern_is_case_sensitive_unless_it_says_otherwise() -> None:
    assert _found("abc", "ABC") == []
    assert _found("(?i)abc", "ABC") == ["ABC"]


@given(st.text(max_size=30), st.text(max_size=30))
def test_offsets_are_in_characters(before: str, after: str) -> None:
    assert Span(len(before), len(before) + 3, "REGEX") in _regex(r"T-\d").find(f"{before}T-1{after}")


def test_offsets_are_in_characters_behind_each_match() -> None:
    assert _found(r"[a-z]é", "日本aé😀bé") == ["aé", "bé"]


def test_a_pattern_may_name_classes_of_unicode() -> None:
    assert _found(r"\p{Greek}+", "abc αβγ def") == ["αβγ"]


def test_a_byte_of_a_character_is_the_character() -> None:
    assert _found(r"b\C", "abé") == ["bé"]


def test_half_a_surrogate_pair_is_read_past() -> None:
    assert _found(r"T-\d", "\ud800 T-1") == ["T-1"]


def test_what_is_matched_is_masked() -> None:
    assert _regex(r"T-\d+").examine(read_answer("see T-1.")).texts == ["see <REGEX>."]


def test_the_reason_does_not_say_what_was_matched() -> None:
    assert _regex(r"T-\d+").examine(read_answer("see T-1.")).reason == "found REGEX (1)"


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(", "missing )"),
        ("a**", "bad repetition operator"),
        ("(a{1000}){1000}", "invalid repetition size"),
        (r"\pL{1000}", "pattern too large"),
        (r"\p{Nonsense}", "invalid character class range"),
    ],
)
def test_a_pattern_that_re2_refuses_is_refused_in_its_words(pattern: str, problem: str) -> None:
    with pytest.raises(BadConfig) as refusal:
        _regex(pattern)

    assert problem in refusal.value.problem


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [(r"(a)\1", "back-references"), ("a(?=b)", "look-ahead"), ("(?<!a)b", "look-behind")],
)
def test_the_remedy_says_what_re2_does_not_know(pattern: str, remedy: str) -> None:
    with pytest.raises(BadConfig) as refusal:
        _regex(pattern)

    assert f"no {remedy}" in refusal.value.remedy


@pytest.mark.parametrize("pattern", ["a*", "", "^", "$", r"\b", r"\B", "a|", "(?m)^", r"x|\b"])
def test_a_pattern_that_matches_nothing_at_all_is_refused(pattern: str) -> None:
    with pytest.raises(BadConfig, match="matches the empty string"):
        _regex(pattern)


def test_a_refusal_writes_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadConfig):
        _regex("(")

    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a|a)*b", "(.*a){20}b", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_that_would_take_others_for_ever_is_linear(pattern: str) -> None:
    # re takes longer than the age of the universe over this; what counts is that it ends.
    assert _found(pattern, "a" * 1_000_000 + "!") == []


def test_matches_that_read_to_the_end_each_time_end_in_one_that_takes_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST_READ", 5_000)

    found = _regex("a.*z|a").find("a" * 1_000)

    assert found[0] == Span(0, 1, "REGEX")
    assert found[-1].end == 1_000
    assert len(found) < 10


@pytest.mark.parametrize("config", ["{}", '{"pattern": 1}', '{"pattern": ""}', '{"pattern": "a", "flags": "i"}'])
def test_a_config_of_another_form_is_refused(config: str) -> None:
    with pytest.raises(BadConfig):
        make_guardrail("regex", "block", config, Surroundings())
