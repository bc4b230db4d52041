from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.guardrails.base import Surroundings
from fleming_sql.guardrails.documents import read_answer
from fleming_sql.guardrails.escapes import unescape
from fleming_sql.guardrails.pii import Pii
from fleming_sql.guardrails.splicing import FreeKeys, Placeholders, Span, mask, restore
from fleming_sql.types import PiiEntity


def _masked(text: str, pattern: str = r"\w+@\w+\.com") -> str:
    spans = [Span(*match.span(), "X") for match in re.finditer(pattern, text)]
    return mask(text, spans, Placeholders(None), {})


# Keys


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"ada@x.com":1,"bob@x.com":2}', '{"<X>":1,"<X> (2)":2}'),
        ('{"to ada@x.com": 1, "to <X>": 2}', '{"to <X>": 1, "to <X> (2)": 2}'),
        ('{"<X>": 1, "ada@x.com": 2}', '{"<X>": 1, "<X> (2)": 2}'),
        ('{"\\u003cX>": 1, "ada@x.com": 2}', '{"\\u003cX>": 1, "<X> (2)": 2}'),
        ('{"ada@x.com": {"bob@x.com": 1}, "c": "d@x.com"}', '{"<X>": {"<X>": 1}, "c": "<X>"}'),
        ('[{"ada@x.com": 1}, {"bob@x.com": 1}]', '[{"<X>": 1}, {"<X>": 1}]'),
        ('{"a": 1, "a": 2, "b": "c@x.com"}', '{"a": 1, "a": 2, "b": "<X>"}'),
        ('{"ada@x.com": 1}\n{"bob@x.com": 1}', '{"<X>": 1}\n{"<X>": 1}'),
        (
            'a@x.com\n```json\n{"ada@x.com":1,"bob@x.com":2}\n```\nb@x.com',
            '<X>\n```json\n{"<X>":1,"<X> (2)":2}\n```\n<X>',
        ),
    ],
)
def test_keys_that_become_the_same_are_told_apart(text: str, masked: str) -> None:
    assert _masked(text) == masked


@given(st.dictionaries(st.text(st.sampled_from('ab12<X> ()"\\'), max_size=6), st.integers(0, 5), max_size=6))
def test_masking_loses_no_key(fields: dict[str, int]) -> None:
    masked = json.loads(_masked(json.dumps([fields, {"in": fields}]), "[ab]+"))

    assert [len(masked[0]), len(masked[1]["in"])] == [len(fields)] * 2


def test_a_changed_key_takes_the_first_free_number() -> None:
    keys = FreeKeys()
    given = [("<X> (2)", "<X> (2)"), ("a", "<X>"), ("b", "<X>"), ("c", "<X>")]

    assert [keys.free(*pair) for pair in given] == ["<X> (2)", "<X>", "<X> (3)", "<X> (4)"]


def test_many_keys_are_masked_in_linear_time() -> None:
    text = json.dumps({f"a{number}@x.com": number for number in range(50_000)})

    assert len(json.loads(_masked(text))) == 50_000


# Restoring


@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_a_number_comes_back_as_a_string_where_it_is_a_key(space: str) -> None:
    originals = {"<X_1>": "4111", '"<X_1>"': "4111"}

    restored = restore(f'{{"<X_1>"{space}: "<X_1>", "a": ["<X_1>"]}}', originals)

    assert json.loads(restored) == {"4111": 4111, "a": [4111]}


# Escapes


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 1_000_000,
        "\\u" * 500_000,
        '\\"' * 500_000,
        "\\ud800" * 150_000,
        ("\\" * 1_000 + "x") * 1_000,
        "\\ud800" + "\\" * 1_000_000,
        "&" * 1_000_000,
        "%" * 1_000_000,
    ],
    ids=lambda text: f"{text[:6]}*{len(text)}",
)
@pytest.mark.parametrize("is_json", [False, True])
def test_rows_of_escapes_are_read_in_linear_time(text: str, is_json: bool) -> None:
    # Quadratic work would take hours over these.
    unescape(json.dumps([text]) if is_json else text)


@pytest.mark.parametrize("backslashes", [1, 2, 3, 17, 1_000])
def test_an_escape_behind_any_number_of_backslashes_is_resolved(backslashes: int) -> None:
    meant = unescape("a" + "\\" * backslashes + "u0040b")

    assert meant is not None
    assert meant.text == "a@b"


def test_a_pair_of_surrogates_is_one_character() -> None:
    meant = unescape(r"\ud83d\ude00 \ud83d\u0041")

    assert meant is not None
    assert meant.text == "😀 \ufffdA"


def test_patterns_of_ones_own_see_through_escapes_beyond_ascii() -> None:
    own = PiiEntity("OWN", pattern="Müller[0-9]+")
    verdict = Pii({}, "mask", Surroundings(pii_entities=(own,))).examine(read_answer(r'["M\u00fcller123"]'))

    assert verdict.texts == ['["<OWN>"]']


def test_built_in_personal_data_is_searched_for_once_since_it_resolves_escapes_itself() -> None:
    assert Pii({}, "mask", Surroundings()).resolves_escapes
