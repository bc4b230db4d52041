"""Tokens before the call: as tiktoken counts them, estimated without a vocabulary, and never slow or downloaded."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql import jsontext, tokenizer
from fleming_sql.policies.tokens import estimate_tokens
from fleming_sql.tokenizer import COUNTED_CHARACTERS, TokenCounter, vocabulary_of
from fleming_sql.types import CHAT, COMPLETIONS, CUSTOM, EMBEDDINGS, ModelRequest, ResponseFormat

MODELS = {"cl100k_base": "gpt-4", "o200k_base": "gpt-4o"}
FILES = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}
PROMPT = "Classify this review as positive or negative: the parcel came late, but support answered within the hour."
TRICKY = [
    "",
    " ",
    "\n\n  \t x",
    "a\0b",
    "<|endoftext|> <|im_start|>",
    "don't WE'LL",
    "日本語 한국어 العربية",
    "👩‍👩‍👧 e\u0301",
    "1234567",
]


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as tiktoken keeps its cache, filled from the files that bpe-openai carries."""
    folder = tmp_path_factory.mktemp("vocabularies")
    package = find_spec("bpe_openai")
    assert package is not None
    assert package.origin is not None
    for vocabulary, name in FILES.items():
        packed = Path(package.origin).with_name("data") / f"{vocabulary}.tiktoken.gz"
        (folder / name).write_bytes(gzip.decompress(packed.read_bytes()))
    return folder


@pytest.fixture
def reference(vocabularies: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, tiktoken.Encoding]]:
    """What tiktoken itself makes of a text."""
    with monkeypatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(vocabularies))
        yield {vocabulary: tiktoken.get_encoding(vocabulary) for vocabulary in MODELS}


@pytest.fixture
def without_bpe_openai(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "bpe_openai", None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))


@pytest.fixture(params=["bpe_openai", "tiktoken", "estimate"])
def counter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, vocabularies: Path) -> TokenCounter:
    """A counter by each of the three ways."""
    if request.param != "bpe_openai":
        monkeypatch.setitem(sys.modules, "bpe_openai", None)
    if request.param == "estimate":
        monkeypatch.setitem(sys.modules, "tiktoken", None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabularies))
    return TokenCounter()


def _prompt(*texts: str) -> ModelRequest:
    return ModelRequest(EMBEDDINGS, {}, inputs=texts)


def _chat(*messages: Mapping[str, Any], **parameters: Any) -> ModelRequest:
    return ModelRequest(CHAT, parameters, messages=messages)


def _user(content: Any) -> ModelRequest:
    return _chat({"role": "user", "content": content})


def _count(request: ModelRequest, model: str = "gpt-4o") -> int:
    return TokenCounter().count(request, model)


@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-5.1-mini", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "o200k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("GPT-4o", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-4-32k-0613", "cl100k_base"),
        ("gpt-3.5-turbo-0125", "cl100k_base"),
        ("gpt-35-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo:acme::abc", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("text-embedding-ada-002", "cl100k_base"),
        ("davinci-002", "cl100k_base"),
        ("text-davinci-002", None),
        ("gpt-oss-120b", None),
        ("gpt-4omega", None),
        ("claude-opus-4", None),
        ("qwen3:8b", None),
        ("", None),
    ],
)
def test_a_model_has_the_vocabulary_that_tiktoken_lists(model: str, vocabulary: str | None) -> None:
    assert vocabulary_of(model) == vocabulary


@pytest.mark.parametrize("vocabulary", MODELS)
@pytest.mark.parametrize("text", [*TRICKY, PROMPT])
def test_texts_count_as_in_tiktoken(text: str, vocabulary: str, reference: Mapping[str, tiktoken.Encoding]) -> None:
    assert _count(_prompt(text), MODELS[vocabulary]) == len(reference[vocabulary].encode_ordinary(text))


def test_any_text_counts_as_in_tiktoken(reference: Mapping[str, tiktoken.Encoding]) -> None:
    counter = TokenCounter()

    @given(st.text(max_size=60) | st.lists(st.sampled_from(TRICKY)).map("".join), st.sampled_from([*MODELS]))
    def check(text: str, vocabulary: str) -> None:
        expected = len(reference[vocabulary].encode_ordinary(text))
        assert counter.count(_prompt(text), MODELS[vocabulary]) == expected

    check()


def test_a_model_of_another_maker_counts_with_the_default_vocabulary_and_is_not_exact() -> None:
    counter = TokenCounter()

    assert counter.count(_prompt(PROMPT), "llama-4") == counter.count(_prompt(PROMPT), "gpt-4o")
    assert (counter.is_exact("llama-4"), counter.is_exact("gpt-4o")) == (False, True)


def test_the_two_vocabularies_are_told_apart() -> None:
    assert _count(_prompt("日本語の文章"), "gpt-4") != _count(_prompt("日本語の文章"), "gpt-4o")


def test_a_chat_counts_as_in_openais_cookbook() -> None:
    # The notebook's own example, section 6; it prints 129 for gpt-3.5-turbo and gpt-4, 124 for gpt-4o.
    system = (
        "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
        "New synergies will help drive top-line growth.",
        "Things working well together will increase revenue.",
        "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
        "Let's talk later when we're less busy about how to do better.",
    )
    names = (None, "example_user", "example_assistant", "example_user", "example_assistant")
    messages: list[dict[str, str]] = [
        {"role": "system", "content": text} | ({"name": name} if name else {})
        for text, name in zip(system, names, strict=True)
    ]
    late = "This late pivot means we don't have time to boil the ocean for the client deliverable."
    messages.append({"role": "user", "content": late})

    assert [_count(_chat(*messages), model) for model in ("gpt-3.5-turbo", "gpt-4", "gpt-4o")] == [129, 129, 124]


def test_a_text_part_counts_as_plain_content_does() -> None:
    assert _count(_user([{"type": "text", "text": PROMPT}])) == _count(_user(PROMPT))


@pytest.mark.parametrize(("detail", "tokens"), [({}, 765), ({"detail": "high"}, 765), ({"detail": "low"}, 85)])
def test_an_image_counts_a_flat_figure_and_not_its_bytes(detail: dict[str, str], tokens: int) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 50_000, **detail}}
    text = {"type": "text", "text": PROMPT}

    assert _count(_user([text, image])) - _count(_user([text])) == tokens


def test_fields_count_as_their_json() -> None:
    fields = {"dataframe_records": [{"age": 41, "city": "Zürich"}]}

    assert _count(ModelRequest(CUSTOM, {}, fields=fields)) == _count(_prompt(jsontext.dumps(fields)))


def test_tools_count_as_their_json() -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    message = {"role": "user", "content": PROMPT}

    assert _count(_chat(message, tools=tools)) - _count(_chat(message)) == _count(_prompt(jsontext.dumps(tools)))


def test_the_schema_of_the_answer_counts_as_its_json() -> None:
    schema = {"type": "object", "properties": {"label": {"type": "string"}}}
    request = ModelRequest(COMPLETIONS, {}, inputs=("x",), response_format=ResponseFormat("json_schema", schema=schema))

    assert _count(request) == _count(_prompt("x", jsontext.dumps(schema)))


def test_other_parameters_count_nothing() -> None:
    message = {"role": "user", "content": PROMPT}

    assert _count(_chat(message, temperature=0.5, stop=["END"])) == _count(_chat(message))


@pytest.mark.parametrize("text", [*TRICKY, "x\ud800y", "\udfff" * 9])
def test_no_text_is_refused(text: str, counter: TokenCounter) -> None:
    nested = {"role": "user", "content": [{"type": "other", "data": text}, {"type": "text", "text": text}, text, None]}

    assert counter.count(_prompt(text), "gpt-4o") >= 0
    assert counter.count(_chat(nested, {"role": None, "content": {1, 2}}), "gpt-4") > 0


@pytest.mark.parametrize("character", [" ", "a", "\n", "^", "0", "中", "😀", "𒀀"])
@pytest.mark.parametrize("model", MODELS.values())
def test_a_long_run_of_one_character_is_quick(character: str, model: str, counter: TokenCounter) -> None:
    counter.is_exact(model)
    request = _prompt(character * 100_000)

    took = []
    for _ in range(3):
        started = time.perf_counter()
        counter.count(request, model)
        took.append(time.perf_counter() - started)

    assert min(took) < 0.05


def test_a_request_beyond_the_limit_is_scaled_from_its_beginning() -> None:
    text = PROMPT * (1 + 10 * COUNTED_CHARACTERS // len(PROMPT))
    exact = sum(_count(_prompt(text[at : at + 10_000])) for at in range(0, len(text), 10_000))

    assert _count(_prompt(text)) == pytest.approx(exact, rel=0.005)


def test_the_limit_is_of_the_whole_request() -> None:
    text = PROMPT * (COUNTED_CHARACTERS // len(PROMPT))

    assert _count(_prompt(*[text] * 40)) == pytest.approx(40 * _count(_prompt(text)), rel=0.005)


def test_without_a_vocabulary_characters_are_counted_by_four(without_bpe_openai: None) -> None:
    assert _count(_prompt(PROMPT, PROMPT)) == estimate_tokens(2 * len(PROMPT))


def test_without_a_vocabulary_nothing_is_exact(without_bpe_openai: None) -> None:
    assert not TokenCounter().is_exact("gpt-4o")


def test_without_a_vocabulary_an_image_still_counts_a_flat_figure(without_bpe_openai: None) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 50_000}}

    assert _count(_user([image])) < 1_000


@pytest.mark.parametrize("vocabulary", MODELS)
def test_tiktoken_counts_where_its_cache_holds_the_vocabulary(
    vocabulary: str, without_bpe_openai: None, vocabularies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabularies))
    counted = _count(_prompt(PROMPT), MODELS[vocabulary])
    monkeypatch.undo()

    assert counted == _count(_prompt(PROMPT), MODELS[vocabulary]) != estimate_tokens(len(PROMPT))


@pytest.mark.parametrize("content", [b"", b"not the vocabulary"])
def test_a_cached_file_with_another_content_is_left_alone(
    content: bytes, without_bpe_openai: None, tmp_path: Path
) -> None:
    file = tmp_path / FILES["o200k_base"]
    file.write_bytes(content)

    assert not TokenCounter().is_exact("gpt-4o")
    assert file.read_bytes() == content  # tiktoken would have removed it and downloaded another


def test_an_empty_cache_folder_setting_means_no_cache(
    without_bpe_openai: None, vocabularies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(vocabularies)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")

    assert not TokenCounter().is_exact("gpt-4o")


def test_a_tiktoken_that_is_slow_on_long_runs_is_not_used(
    without_bpe_openai: None, vocabularies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabularies))
    monkeypatch.setattr(tokenizer, "version", lambda package: "0.12.0")

    assert not TokenCounter().is_exact("gpt-4o")


def test_neither_package_is_imported_before_the_first_count() -> None:
    script = (
        "import sys, fleming_sql, fleming_sql.tokenizer as t\n"
        "t.TokenCounter()\n"
        "assert not {'bpe_openai', 'tiktoken'} & set(sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.stderr == ""
