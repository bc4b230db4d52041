from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.guardrails.base import PASS, Finding
from fleming_sql.guardrails.documents import Document, Part, read_answer
from fleming_sql.guardrails.spans import Span, SpanGuardrail, restore

DIGITS, WORDS, ODD = r"\d{4,}", r"[A-Za-z]+", r'[\da-c][",:{}\[\]\\ ]{0,3}[\da-c]?|true|null'


class _Finder(SpanGuardrail):
    """Finds what a pattern matches."""

    def __init__(self, pattern: str = DIGITS, entity: str = "X", *, restores: bool = False) -> None:
        self._pattern = re.compile(pattern)
        self._entity = entity
        self.restores = restores
        self.read = 0

    def find(self, text: str) -> Sequence[Span]:
        self.read += len(text)
        return [Span(*match.span(), self._entity) for match in self._pattern.finditer(text)]


class _Both(_Finder):
    """Takes short numbers for one thing, and long ones for another."""

    def find(self, text: str) -> Sequence[Span]:
        return [Span(*m.span(), "LONG" if len(m[0]) > 6 else "SHORT") for m in re.finditer(r"\d{4,}", text)]


def _document(*texts: str) -> Document:
    return Document("input", tuple(Part(text, f"messages[{at}].content", "user") for at, text in enumerate(texts)))


def _masked(text: str, pattern: str = DIGITS) -> str:
    texts = _Finder(pattern).examine(read_answer(text)).texts
    return text if texts is None else texts[0]


def _there_and_back(texts: Sequence[str], pattern: str = DIGITS) -> list[str]:
    verdict = _Finder(pattern, restores=True).examine(_document(*texts))
    return [restore(text, verdict.originals) for text in verdict.texts or texts]


def _json(text: str) -> Any:
    return json.loads(text)


# Masking


def test_a_text_without_finds_passes() -> None:
    assert _Finder().examine(read_answer("nothing")) is PASS


def test_finds_are_masked_counted_and_placed() -> None:
    verdict = _Finder().examine(_document("a 1234", "5678 and 9012"))

    assert verdict.texts == ["a <X>", "<X> and <X>"]
    assert verdict.reason == "found X (3)"
    assert verdict.findings == [Finding("X", 0, 2, 6), Finding("X", 1, 0, 4), Finding("X", 1, 9, 13)]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"card": 4111111111111111}', '{"card": "<X>"}'),
        ('{ "card" : "4111 4111" }', '{ "card" : "<X> <X>" }'),
        ('{"card": -4111.5e3, "b": 1}', '{"card": "<X>", "b": 1}'),
        ('{"card": 4111.4111}', '{"card": "<X>"}'),
        ("[1, 41111, [{}, 42222]]", '[1, "<X>", [{}, "<X>"]]'),
        ('{"4111": "a\\"4111\\""}', '{"<X>": "a\\"<X>\\""}'),
        ('{"a": "4111"}', '{"a": "<X>"}'),
        ('{"a": "\\u0034111\\u00070"}', '{"a": "<X>\\u00070"}'),
        ('  \n[4111]\n', '  \n["<X>"]\n'),
        ('{"a": 4111}\n{"a": 4112}\n', '{"a": "<X>"}\n{"a": "<X>"}\n'),
        ("Call 4111:\n```json\n[4111]\n```\nor 4112", 'Call <X>:\n```json\n["<X>"]\n```\nor <X>'),
        ("```\n[4111]\n```\n```json\n{\"a\": 4111}", '```\n["<X>"]\n```\n```json\n{"a": "<X>"}'),
        ('```json\n{"a": "```", "b": 4111}\n```', '```json\n{"a": "```", "b": "<X>"}\n```'),
        ("[1] says 4111", "[1] says <X>"),
        ('{"a": 4111', '{"a": <X>'),
        ("4111", "<X>"),
        ("```\nx = 4111\n```", "```\nx = <X>\n```"),
    ],
)  # fmt: skip
def test_json_stays_json(text: str, masked: str) -> None:
    assert _masked(text) == masked


@pytest.mark.parametrize(
    ("pattern", "masked"),
    [
        ('"a": "b', '{"<X>": "<X>", "d": [1, true]}'),
        ('b c", "d', '{"a": "<X>", "<X>": [1, true]}'),
        (r"\[1, tr", '{"a": "b c", "d": ["<X>", "<X>"]}'),
        ("true", '{"a": "b c", "d": [1, "<X>"]}'),
        (".+", '{"<X>": "<X>", "<X> (2)": ["<X>", "<X>"]}'),
        (r"[{}\[\],:]", '{"a": "b c", "d": [1, true]}'),
    ],
)
def test_what_crosses_quotes_masks_what_it_touches(pattern: str, masked: str) -> None:
    assert _masked('{"a": "b c", "d": [1, true]}', pattern) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (r'{"a": "x\u0041bc"}', r'{"a": "x<X>"}'),
        (r'["a\ud83d\ude00b"]', r'["a<X>b"]'),
    ],
)
def test_an_escape_is_masked_whole(text: str, masked: str) -> None:
    assert _masked(text, "Abc|😀") == masked


def test_escapes_within_escapes_are_seen_through() -> None:
    assert _masked(r'{"body": "{\"to\": \"\\u0041da\"}"}', "Ada") == r'{"body": "{\"to\": \"<X>\"}"}'


def test_outside_json_a_backslash_and_a_letter_are_no_escape() -> None:
    assert _masked(r"C:\new and \u0041da", "^ew|Ada|ew") == r"C:\n<X> and <X>"


_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**18), 10**18),
        st.floats(allow_nan=False),
        st.text(max_size=12),
        st.text(st.sampled_from('ab12 "\\\n\u0001é😀{}[],:<>`'), max_size=20),
        st.sampled_from(["4111 1111", "call +49 170 1234567", '"', "\\", "a\\u0031"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.sampled_from('ab1234"\\ '), max_size=8), inner, max_size=4),
    ),
    max_leaves=12,
)
_CONTAINERS = st.one_of(st.lists(_JSON, max_size=4), st.dictionaries(st.text(max_size=6), _JSON, max_size=4))
_PATTERNS = st.sampled_from([DIGITS, WORDS, ODD, r"\d", r".", r"[^a]+", r'"[^"]*"', r"\\.", r"\w+"])
_TEXTS = st.builds(json.dumps, _CONTAINERS, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 2]))


@given(_TEXTS, _PATTERNS)
def test_json_is_valid_before_and_after(text: str, pattern: str) -> None:
    _json(_masked(text, pattern))


@given(_TEXTS, _PATTERNS, st.text(st.sampled_from("ab1 \n"), max_size=10))
def test_json_in_a_fence_is_valid_before_and_after(text: str, pattern: str, prose: str) -> None:
    masked = _masked(f"{prose}\n```json\n{text}\n```\n{prose}", r"\d{4,}|\d|true" if pattern == "." else pattern)

    if pattern in (DIGITS, WORDS, r"\d"):
        fence = "```<X>\n" if pattern == WORDS else "```json\n"
        _json(masked.split(fence, 1)[1].rsplit("\n```", 1)[0])


@given(_CONTAINERS)
def test_strings_of_json_are_masked_as_they_read(value: Any) -> None:
    def inside(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub("4111|1234567", "<X>", value)
        if isinstance(value, list):
            return [inside(item) for item in value]
        if isinstance(value, Mapping):
            return {key: inside(item) for key, item in value.items()}
        return "<X>" if re.search("4111|1234567", json.dumps(value)) else value

    text = json.dumps(value)

    assert json.dumps(_json(_masked(text, "4111|1234567"))) == json.dumps(inside(value)) or "4111" in str(value)


@given(st.text(), _PATTERNS)
def test_nothing_but_finds_changes(text: str, pattern: str) -> None:
    if not re.search(pattern, text):
        assert _masked(text, pattern) == text or "\\" in text


def test_masking_reads_long_json_in_linear_time() -> None:
    # Quadratic work would take hours over these.
    text = json.dumps([{"a": 41111, "b": 'x "4111" \n' * 3}] * 5_000)

    assert len(_json(_masked(text))) == 5_000
    assert _masked("<" * 200_000 + "4111") == "<" * 200_000 + "<X>"
    assert _masked("```[" * 100_000 + "4111") == "```[" * 100_000 + "<X>"


@pytest.mark.parametrize("text", [r"\u4111 1111", r'["\\u4111 1111"]'])
def test_digits_are_not_hidden_behind_what_may_be_an_escape(text: str) -> None:
    assert "4111 1111" not in _masked(text, r"\d{4} \d{4}")


# Idempotence


@given(_TEXTS | st.text(st.sampled_from('a1234<>X_" \\{}[]'), max_size=40), st.sampled_from([DIGITS, WORDS, r"\d{2,}"]))
def test_masking_twice_is_masking_once(text: str, pattern: str) -> None:
    once = _masked(text, pattern)

    assert _masked(once, pattern) == once


@given(st.lists(st.text(st.sampled_from("a12345 <>X"), max_size=8), min_size=1, max_size=5))
def test_masking_parts_twice_is_masking_them_once(texts: list[str]) -> None:
    once = list(_Finder().examine(_document(*texts)).texts or texts)

    assert list(_Finder().examine(_document(*once)).texts or once) == once


@pytest.mark.parametrize("text", ["<X>", "<X_1>", "a <X_12> b"])
def test_a_placeholder_is_no_find(text: str) -> None:
    assert _masked(text, r"X|\d+|X_\d+") == text


@pytest.mark.parametrize("text", ["<Y_1234>", "<X_123456>", "<X 1234>", "X_1234>", "<X_1234"])
def test_what_only_looks_like_a_placeholder_hides_nothing(text: str) -> None:
    assert "1234" not in _masked(text, r"\d+")


# Parts


def test_what_two_parts_hold_is_masked_once() -> None:
    verdict = _Finder().examine(_document("a 12", "34 b"))

    assert verdict.texts == ["a <X>", " b"]
    assert verdict.findings == [Finding("X", 0, 2, 4)]


def test_what_many_parts_hold_is_masked_once() -> None:
    assert _Finder().examine(_document("a 1", "2", "", "34", "5 b")).texts == ["a <X>", "", "", "", " b"]


def test_parts_that_are_not_read_as_one_are_apart() -> None:
    parts = (Part("12", "inputs[0]", "input", 1), Part("34", "inputs[1]", "input", 2))

    assert _Finder().examine(Document("input", parts)) is PASS


def test_numbers_are_not_read_as_one() -> None:
    parts = (Part("12", "fields[0]", "input", is_number=True), Part("34", "fields[1]", "input", is_number=True))

    assert _Finder().examine(Document("input", parts)) is PASS


def test_a_find_stays_what_it_is_beside_another_part() -> None:
    assert _Finder("a@b[a-z]*").examine(_document("a@b", "hello")).texts == ["<X>", "hello"]


def test_a_find_gives_way_to_something_else_that_it_is_a_piece_of() -> None:
    assert _Both().examine(_document("no 12345", "678 yes")).texts == ["no <LONG>", " yes"]


def test_what_comes_to_light_beside_what_two_parts_hold_is_masked_too() -> None:
    # The fives are a piece of a longer number until the rest of it is gone.
    assert _Finder(r"\b12[a-z]+34|(?<![0-9])5+").examine(_document("12a", "b345555")).texts == ["<X>", "<X>"]


def test_a_seam_in_long_texts_is_searched() -> None:
    assert _Finder().examine(_document("a" * 5000 + "12", "34" + "b" * 5000)).texts == ["a" * 5000 + "<X>", "b" * 5000]


def test_many_small_parts_are_read_twice_not_over_and_over() -> None:
    finder = _Finder()

    finder.examine(_document(*["ab "] * 1_000))

    assert finder.read <= 2 * 3_000


def test_json_in_two_parts_stays_json() -> None:
    texts = _Finder(r"1\]\[2").examine(_document("[1]", "[2]")).texts or ()

    assert [_json(text) for text in texts] == [["<X>"], ["<X>"]]


# Restoring


def test_the_same_value_has_the_same_number_in_all_parts() -> None:
    verdict = _Finder(restores=True).examine(_document("1234 and 5678", '{"a": "5678"}'))

    assert verdict.texts == ["<X_1> and <X_2>", '{"a": "<X_2>"}']
    assert verdict.originals == {"<X_1>": "1234", "<X_2>": "5678"}


def test_no_number_is_given_that_stands_in_a_text_already() -> None:
    verdict = _Finder(restores=True).examine(_document("<X_1> is not 1234", "nor <X_3>, 5678"))

    assert verdict.texts == ["<X_1> is not <X_2>", "nor <X_3>, <X_4>"]


def test_numbers_of_json_come_back_as_numbers_and_strings_as_strings() -> None:
    text = '{"a": 41111, "b": "41111"}'

    assert _there_and_back([text]) == [text]


def test_an_answer_in_words_has_the_number_without_quotes() -> None:
    verdict = _Finder(restores=True).examine(_document('{"a": 41111}'))

    assert restore("it is <X_1>", verdict.originals) == "it is 41111"


def test_an_original_is_escaped_in_json() -> None:
    originals = {"<X_1>": 'C:\\new "x"\n'}

    assert _json(restore('{"a": "<X_1>", "<X_1>": 1}', originals)) == {"a": originals["<X_1>"], originals["<X_1>"]: 1}
    assert restore("a <X_1>", originals) == 'a C:\\new "x"\n'


def test_an_original_is_escaped_in_a_fence_and_nowhere_else() -> None:
    assert restore('"<X_1>"\n```json\n["<X_1>"]\n```', {"<X_1>": '"'}) == '"""\n```json\n["\\""]\n```'


def test_a_placeholder_within_an_original_is_left_alone() -> None:
    assert restore("<X_1> <X_2>", {"<X_1>": "<X_2>", "<X_2>": "<X_1>"}) == "<X_2> <X_1>"


def test_other_placeholders_are_left_alone() -> None:
    assert restore("<X_1> <X_10> <Y_1>", {"<X_1>": "a"}) == "a <X_10> <Y_1>"


def test_a_quote_before_a_placeholder_may_be_one_of_the_string() -> None:
    verdict = _Finder(restores=True).examine(_document('{"a": 41111}'))

    assert _json(restore(r'{"b": "is \"<X_1>"}', verdict.originals)) == {"b": 'is "41111'}


@given(_TEXTS | st.text() | st.text(st.sampled_from('a1234<>X_" \\{}[],:`\n'), max_size=40), _PATTERNS)
def test_a_restored_text_is_the_original(text: str, pattern: str) -> None:
    (restored,) = _there_and_back([text], pattern)

    # The same value written with two kinds of escapes comes back with one of them.
    assert restored == text or (_is_json(text) and _json(restored) == _json(text))


@given(st.lists(st.text(st.sampled_from("a12345 <>X_{}[]"), max_size=10), min_size=2, max_size=5))
def test_restored_parts_are_the_original_when_read_as_one(texts: list[str]) -> None:
    assert "".join(_there_and_back(texts)) == "".join(texts)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
