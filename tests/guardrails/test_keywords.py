# ruff: noqa: RUF001  looking like another character is what is tested
from __future__ import annotations

import random
import string
import sys
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.guardrails import BadConfig, Surroundings, make_guardrail
from fleming_sql.guardrails.documents import Document, Part, read_answer
from fleming_sql.guardrails.folding import Folded, fold
from fleming_sql.guardrails.keywords import Keywords

SHY, ZWJ, ZWSP = "\u00ad", "\u200d", "\u200b"


def _keywords(*keywords: str, whole_word: bool = True) -> Keywords:
    return Keywords({"keywords": list(keywords), "whole_word": whole_word}, "block", Surroundings())


def _found(text: str, *keywords: str, whole_word: bool = True) -> list[str]:
    return [text[span.start : span.end] for span in _keywords(*keywords, whole_word=whole_word).find(text)]


def _masked(text: str, *keywords: str, whole_word: bool = True) -> Sequence[str]:
    return _keywords(*keywords, whole_word=whole_word).examine(read_answer(text)).texts or [text]


@pytest.mark.parametrize(
    ("text", "keyword", "found"),
    [
        ("A Falcon flew", "falcon", "Falcon"),
        ("FALCON", "falcon", "FALCON"),
        ("the falcon", "Falcon", "falcon"),
        ("die STRASSE dort", "Straße", "STRASSE"),
        ("die Straße dort", "STRASSE", "Straße"),
        ("in İSTANBUL bul", "istanbul", "İSTANBUL"),
        ("ὁ ΟΔΟΣ ἐκεῖ", "οδος", "ΟΔΟΣ"),  # a final sigma is another character
        ("ὁ οδοσ ἐκεῖ", "ΟΔΟΣ", "οδοσ"),
    ],
)
def test_a_keyword_is_found_in_any_case(text: str, keyword: str, found: str) -> None:
    assert _found(text, keyword) == [found]


def test_offsets_are_right_behind_letters_that_fold_into_more_or_fewer() -> None:
    assert _found("ßßß İİ ﬁﬃ e\u0301 가 falcon", "falcon") == ["falcon"]


@pytest.mark.parametrize(
    "text",
    [
        "ｆａｌｃｏｎ",
        "𝐟𝐚𝐥𝐜𝐨𝐧",
        "ⓕⓐⓛⓒⓞⓝ",
        f"fal{ZWSP}con",
        f"fal{ZWJ}con",
        f"f{SHY}a{SHY}lcon",
        "fal\ufeffcon",
        "fal\x00con",
        "f\u0336alco\u0336n",
        "fa\ufe0flcon",
        "fal\U000e0041con",
    ],
)
def test_a_keyword_is_found_whatever_hides_it(text: str) -> None:
    assert _found(f"see: {text}!", "falcon") == [text]


@pytest.mark.parametrize(
    "text",
    [
        "F\u0430lcon",  # Cyrillic
        "fal\u0441\u043en",
        "\u0420roject falcon",
        "F\u0391LCON",  # Greek
        "falc\u0585n",  # Armenian
        f"fal{ZWSP}\u0441\u043e{ZWSP}n",
        "\U0001d41f\U0001d41alc\u043en",
    ],
)
def test_letters_that_look_latin_hide_no_keyword(text: str) -> None:
    assert _found(f"see: {text}!", "falcon", "project falcon") == [text]


@pytest.mark.parametrize(
    ("keyword", "text"),
    [("проект", "ПРОЕКТ"), ("νερό", "ΝΕΡΌ"), ("IT-отдел", "it-Отдел"), ("1С", "1с"), ("F\u0430lcon", "FALCON")],
)
def test_a_keyword_of_another_script_is_found_in_any_case(keyword: str, text: str) -> None:
    assert _found(f"see: {text}!", keyword) == [text]


def test_a_word_of_another_script_is_no_latin_keyword() -> None:
    assert _found("в рот, на рак, РОТ", "pot", "pak") == []


@pytest.mark.parametrize("space", ["\n", "\r\n", "\t", "\u00a0", "\u3000", "   ", " \n\t "])
def test_any_white_space_matches_that_between_the_words_of_a_phrase(space: str) -> None:
    text = f"of Project{space}Falcon itself"

    assert _found(text, "project  falcon") == [f"Project{space}Falcon"]


@pytest.mark.parametrize("text", ["party", "arts", "art_1", "1art", "cart", "naïveart", "árt", "art\u0301"])
def test_a_whole_word_is_not_found_within_another(text: str) -> None:
    assert _found(text, "art") == []


@pytest.mark.parametrize("text", ["art", "art.", "(art)", "pop-art", "art's", "艺术art展", f"pop{ZWSP}art{ZWSP}deco"])
def test_a_whole_word_is_found_where_it_stands_by_itself(text: str) -> None:
    assert _found(text, "art") == ["art"]


def test_a_part_of_a_word_is_found_where_whole_words_are_not_asked_for() -> None:
    assert _found("party", "art", whole_word=False) == ["art"]


@pytest.mark.parametrize(
    ("text", "keyword"),
    [("我们讨论猎鹰计划的细节", "猎鹰计划"), ("これはファルコンです", "ファルコン"), ("นี่คือเหยี่ยวของเรา", "เหยี่ยว")],
)
def test_a_whole_word_is_found_in_scripts_without_spaces(text: str, keyword: str) -> None:
    assert _found(text, keyword) == [keyword]


def test_a_vowel_sign_goes_on_with_a_word() -> None:
    assert _found("कमी", "कम") == []


def test_a_syllable_is_not_found_in_a_longer_one() -> None:
    assert _found("각", "가", whole_word=False) == []


def test_a_letter_is_not_found_in_one_with_an_accent() -> None:
    assert _found("caf\u00e9 cafe\u0301", "cafe", whole_word=False) == []


def test_a_letter_with_an_accent_is_found_however_it_is_written() -> None:
    assert _found("caf\u00e9 cafe\u0301", "CAFÉ") == ["caf\u00e9", "cafe\u0301"]


@pytest.mark.parametrize(
    ("text", "keyword"), [("I know C++ well", "C++"), ("ASP.NET", ".NET"), ("C++", "c++"), ("say #no!", "#no")]
)
def test_a_keyword_may_have_punctuation(text: str, keyword: str) -> None:
    assert [found.casefold() for found in _found(text, keyword)] == [keyword.casefold()]


def test_a_keyword_is_found_at_both_ends_of_a_text() -> None:
    assert _found("art or art", "art") == ["art", "art"]


def test_keywords_that_overlap_are_found_as_one() -> None:
    assert _found("red green blue", "red green", "green blue", "green") == ["red green blue"]


def test_a_longer_keyword_that_is_no_whole_word_hides_no_shorter_one() -> None:
    assert _found("smart carts", "smart car", "smart") == ["smart"]


def test_keywords_side_by_side_are_found_one_by_one() -> None:
    assert _found("redgreen", "red", "green", whole_word=False) == ["red", "green"]


@pytest.mark.parametrize("keyword", ["keyword", "KEYWORD_1", "<KEYWORD>", "<", "word"])
def test_what_was_masked_stays_as_it_is_whatever_the_keyword(keyword: str) -> None:
    once = _masked(f"a {keyword} b", keyword, whole_word=False)

    assert _masked(once[0], keyword, whole_word=False) == once


def test_a_keyword_behind_an_escape_of_json_is_found() -> None:
    assert _masked(r'{"a": "\nfalcon", "b": "f\u0061lcon"}', "falcon") == [r'{"a": "\n<KEYWORD>", "b": "<KEYWORD>"}']


def test_a_keyword_split_over_two_messages_is_found() -> None:
    parts = (Part("the fal", "messages[0].content", "user"), Part("con", "messages[1].content", "user"))

    assert _keywords("falcon").examine(Document("input", parts)).texts == ["the <KEYWORD>", ""]


def test_the_reason_does_not_say_the_keyword() -> None:
    assert _keywords("falcon").examine(read_answer("Falcon, falcon")).reason == "found KEYWORD (2)"


@pytest.mark.parametrize("keyword", [" ", "\n", ZWSP, f" {ZWJ} "])
def test_a_blank_keyword_is_refused(keyword: str) -> None:
    with pytest.raises(BadConfig, match="is blank"):
        _keywords("a", keyword)


@pytest.mark.parametrize("same", ["Falcon", "falcon ", "ｆalcon", f"fal{ZWSP}con"])
def test_a_keyword_that_is_there_twice_is_refused(same: str) -> None:
    with pytest.raises(BadConfig, match="are the same"):
        _keywords("falcon", same)


@pytest.mark.parametrize(
    "config", ["{}", '{"keywords": []}', '{"keywords": [""]}', '{"keywords": "a"}', '{"keywords": ["a"], "case": true}']
)
def test_a_config_of_another_form_is_refused(config: str) -> None:
    with pytest.raises(BadConfig):
        make_guardrail("keywords", "block", config, Surroundings())


def test_whole_words_are_the_default() -> None:
    guardrail = make_guardrail("keywords", "block", '{"keywords": ["art"]}', Surroundings())

    assert isinstance(guardrail, Keywords)
    assert not guardrail.find("party")


def test_thousands_of_keywords_are_told_apart() -> None:
    letters = random.Random(5)  # noqa: S311  no secrets
    keywords = sorted({"".join(letters.choices(string.ascii_lowercase, k=8)) for _ in range(10_000)})
    guardrail = _keywords(*keywords)
    text = " ".join(keywords[:3])

    assert [text[span.start : span.end] for span in guardrail.find(text)] == keywords[:3]
    assert not guardrail.find("The parcel for order 88213 arrived two days late.")


def test_half_a_surrogate_pair_is_read_past() -> None:
    assert _found("\ud800 falcon", "falcon") == ["falcon"]


def test_a_tower_of_marks_is_read_in_linear_time() -> None:
    # Unicode's own way of putting them in order would compare each with each: minutes here.
    text = "falcon" + "\u0301\u0327" * 300_000 + " falcon"

    assert _found(text, "falcon") == ["falcon"]


def test_all_marks_are_what_stacks_of_them_are_recognised_by() -> None:
    marks = [chr(code) for code in range(0x80, sys.maxunicode) if unicodedata.combining(chr(code))]

    assert not [mark for mark in marks if mark.isalnum() or mark == "_"]


_CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from(
        ["a", "ß", "İ", "ﬁ", " ", "\n", "\u0301", "\u0327", "e", "\u1100", "\u1161", "\u11a8", ZWSP, "Σ", "ｶ", "ﾞ"]
    ),
)


@given(st.text(_CHARACTERS, max_size=400))
def test_folding_with_places_folds_the_same(text: str) -> None:
    assert Folded(text).text.strip() == fold(text)


@given(st.text(_CHARACTERS, max_size=200), st.text(_CHARACTERS, max_size=200))
def test_a_word_is_found_in_its_place_whatever_stands_around(before: str, after: str) -> None:
    text = f"{before} Xyzzy {after}"

    assert "Xyzzy" in _found(text, "xyzzy") or "xyzzy" in fold(before + after)


@given(st.text(st.sampled_from("abcßİ \n\u0301\uff41é가" + ZWSP + "<>_1"), max_size=40), st.booleans())
def test_masking_twice_is_masking_once(text: str, whole_word: bool) -> None:
    once = _masked(text, "a", "ab c", "éa", whole_word=whole_word)

    assert _masked(once[0], "a", "ab c", "éa", whole_word=whole_word) == once


@given(st.text(max_size=60))
def test_a_text_without_keywords_is_left_alone(text: str) -> None:
    assert _keywords("xyzzy").examine(read_answer(text)).texts is None or "xyzzy" in fold(text)
