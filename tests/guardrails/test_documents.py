from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.guardrails.documents import (
    Document,
    Part,
    read_answer,
    read_request,
    write_answer,
    write_request,
)
from fleming_sql.types import ModelRequest, ResponseFormat

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def _chat(*messages: Mapping[str, Any], **parameters: Any) -> ModelRequest:
    return ModelRequest("llm/v1/chat", parameters, messages=messages)


def _custom(fields: Any) -> ModelRequest:
    return ModelRequest("llm/v1/custom", {}, fields=fields)  # type: ignore[arg-type]


def _loud(request: ModelRequest) -> ModelRequest:
    return write_request(request, [text.upper() for text in read_request(request).texts])


def test_a_message_is_a_part_with_its_place_and_role() -> None:
    request = _chat({"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"})

    assert read_request(request).parts == (
        Part("Be kind", "messages[0].content", "system"),
        Part("Hi", "messages[1].content", "user"),
    )


def test_the_plain_and_the_thorough_way_read_the_same() -> None:
    plain = _chat({"role": "user", "content": "Hi"}, max_tokens=5)
    thorough = _chat({"role": "user", "content": "Hi"}, max_tokens=5, stop=["x"])

    assert read_request(plain).parts == read_request(thorough).parts[:1]


def test_pictures_are_counted_and_left_alone() -> None:
    request = _chat({"role": "user", "content": [{"type": "text", "text": "What?"}, IMAGE, IMAGE]})

    document = read_request(request)

    assert (document.texts, document.media) == (["What?"], 2)
    assert _loud(request).messages[0]["content"] == [{"type": "text", "text": "WHAT?"}, IMAGE, IMAGE]


def test_a_text_that_is_called_a_picture_is_read_all_the_same() -> None:
    request = _chat({"role": "user", "type": "file", "content": [{**IMAGE, "text": "hidden"}]})

    assert "hidden" in read_request(request).texts


def test_arguments_of_tools_are_read_with_what_they_belong_to() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "pay", "arguments": '{"to": "Ada"}'}}

    parts = read_request(_chat({"role": "assistant", "content": None, "tool_calls": [call]})).parts

    assert [(part.text, part.arguments) for part in parts] == [("pay", None), ('{"to": "Ada"}', '{"to": "Ada"}')]


def test_arguments_that_are_no_text_hide_nothing() -> None:
    call = {"type": "tool_use", "name": "pay", "input": {"id": "secret", "type": "more", "n": 4111}}

    texts = read_request(_chat({"role": "assistant", "content": [call]})).texts

    assert texts == ["pay", "id", "secret", "type", "more", "n", "4111"]


def test_descriptions_of_tools_are_read_and_their_types_are_not() -> None:
    tool = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object", "title": "Pay"}}}

    parts = read_request(_chat({"role": "user", "content": "Hi"}, tools=[tool], tool_choice="auto")).parts

    assert [(part.text, part.role) for part in parts] == [("Hi", "user"), ("pay", "parameter"), ("Pay", "parameter")]


def test_each_input_is_read_by_itself() -> None:
    request = ModelRequest("llm/v1/embeddings", {}, inputs=("a", "b"))

    assert [part.run for part in read_request(request).parts] == [1, 2]


def test_fields_are_read_with_their_keys_and_numbers() -> None:
    document = read_request(_custom({"a": [1, True, None, {"b": 2.5}], "c": "d"}))

    assert document.texts == ["a", "1", "b", "2.5", "c", "d"]


def test_numbers_are_told_from_texts() -> None:
    assert [part.is_number for part in read_request(_custom([41, "11"])).parts] == [True, False]


def test_a_masked_number_becomes_a_text() -> None:
    assert write_request(_custom({"card": 4111}), ["card", "<X>"]).fields == {"card": "<X>"}


def test_keys_that_become_the_same_lose_no_value() -> None:
    masked = write_request(_custom({"a@b.c": 1, "d@e.f": 2, "<X>": 3}), ["<X>", "1", "<X>", "2", "<X>", "3"])

    assert masked.fields == {"<X>": 1, "<X> (2)": 2, "<X> (3)": 3}


@pytest.mark.parametrize("content", ["text", None, 5, [0.5], {"a": ["b", 1]}])
def test_an_answer_is_written_back_as_it_was_read(content: Any) -> None:
    assert write_answer(content, read_answer(content).texts) == content


def test_an_answer_knows_what_it_answers() -> None:
    request = read_request(_chat({"role": "user", "content": "Hi"}))

    assert read_answer("Hello", request) == Document(
        "output", (Part("Hello", "answer", "assistant"),), before=request.parts
    )


# What is beside the texts of messages


def test_the_form_of_the_answer_is_read() -> None:
    schema = {"title": "Of Ada", "properties": {"ada": {"type": "string", "enum": ["bob"]}}, "type": "object"}
    wanted = ResponseFormat("json_schema", "about_ada", schema, return_type="STRUCT(ada VARCHAR)")
    request = ModelRequest("llm/v1/chat", {}, messages=({"role": "user", "content": "Hi"},), response_format=wanted)

    changed = _loud(request).response_format

    assert read_request(request).texts == ["Hi", "about_ada", "Of Ada", "ada", "bob"]
    assert changed == ResponseFormat(
        "json_schema",
        "ABOUT_ADA",
        {"title": "OF ADA", "properties": {"ADA": {"type": "string", "enum": ["BOB"]}}, "type": "object"},
        return_type="STRUCT(ada VARCHAR)",
    )


def test_the_form_of_the_answer_stays_the_same_object_where_nothing_changed() -> None:
    wanted = ResponseFormat("json_schema", "x", {"properties": {"a": {"const": 1}}})
    request = ModelRequest("llm/v1/chat", {}, response_format=wanted)

    assert write_request(request, read_request(request).texts).response_format is wanted


@pytest.mark.parametrize(
    "parameters",
    [
        {"tools": [{"type": "function", "function": {"parameters": {"properties": {"SEEN": {"type": "string"}}}}}]},
        {"tools": [{"type": "SEEN"}]},
        {"tools": [{"type": ["string", "SEEN"]}]},
        {"tools": [{"enum": ["SEEN"]}]},
        {"tool_choice": {"type": "function", "function": {"name": "SEEN"}}},
        {"tool_choice": "SEEN\x20"},
        {"reasoning_effort": "SEEN@"},
        {"modalities": ["text", "SEEN now"]},
        {"metadata": {"SEEN": "x"}},
        {"metadata": {"x": "SEEN"}},
        {"user": "SEEN"},
        {"SEEN ": 1},
    ],
)
def test_all_that_parameters_hold_is_read(parameters: Mapping[str, Any]) -> None:
    assert any("SEEN" in text for text in read_request(_chat({"role": "user", "content": "Hi"}, **parameters)).texts)


def test_numbers_in_parameters_are_read_and_those_that_are_parameters_are_not() -> None:
    parts = read_request(_chat(max_tokens=5, metadata={"default": 4111}, stop=[7.5])).parts

    assert [(part.text, part.is_number) for part in parts] == [("4111", True), ("7.5", True)]


@pytest.mark.parametrize("parameters", [{"tool_choice": "auto"}, {"modalities": ["text", "audio"]}, {"top_p": 0.5}])
def test_choices_are_no_texts(parameters: Mapping[str, Any]) -> None:
    assert read_request(_chat(**parameters)).texts == []


@pytest.mark.parametrize(
    "message",
    [
        {"role": "SEEN by all", "content": "Hi"},
        {"role": "user", "content": "Hi", "SEEN": 1},
        {"role": "user", "content": "Hi", "id": "SEEN by all"},
        {"role": "user", "content": "Hi", "type": "SEEN" * 20},
        {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral", "x": "SEEN"}},
        {"role": "user", "content": [{"type": "file", "file": {"filename": "SEEN.pdf"}}]},
        {"role": "user", "content": [{"type": "image", "alt_text": "SEEN"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.org/SEEN"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:text/plain,SEEN"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:a/b;base64,SEEN me"}}]},
        {"role": "user", "content": [{"type": "image_url", "detail": "SEEN"}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_data": "SEEN"}}]},
        {"role": "user", "type": "file", "content": "data:a/b;base64,SEEN"},
    ],
)
def test_all_that_a_message_holds_is_read(message: Mapping[str, Any]) -> None:
    assert any("SEEN" in text for text in read_request(_chat(message)).texts)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "QUJD" * 40, "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD" * 40}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "low"}},
    ],
)
def test_the_bytes_of_media_are_counted_and_not_read(part: Mapping[str, Any]) -> None:
    document = read_request(_chat({"role": "user", "content": [part]}))

    assert (document.texts, document.media) == ([], 1)


# What is read as one text


def test_fields_and_keys_are_apart_and_the_strings_of_a_list_are_one() -> None:
    parts = read_request(_custom({"tags": ["ada@exam", "ple.com"], "area@b": "c.org"})).parts
    runs = [part.run for part in parts]

    assert [part.text for part in parts] == ["tags", "ada@exam", "ple.com", "area@b", "c.org"]
    assert runs[1] == runs[2]
    assert len(set(runs)) == 4


def test_a_part_says_what_it_is_of() -> None:
    request = ModelRequest(
        "llm/v1/chat", {"stop": ["x"]}, ({"role": "user", "content": "Hi"},) * 2, ("a", "b"), {"c": ["d"]}
    )

    assert [part.whole for part in read_request(request).parts] == [
        *("messages", "messages", "inputs[0]", "inputs[1]", "fields", "fields", "stop")
    ]


# Values that are deep, and values that are long


def _deep(levels: int, value: Any) -> Any:
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


@pytest.mark.parametrize(
    "place",
    [
        lambda deep: _custom(deep),
        lambda deep: _chat(tools=deep, metadata=deep),
        lambda deep: _chat({"role": "user", "content": deep}),
        lambda deep: _chat({"role": "user", "content": [], "tool_calls": [{"arguments": deep}]}),
        lambda deep: ModelRequest("llm/v1/chat", {}, response_format=ResponseFormat("json_schema", "x", deep)),
    ],
)
def test_values_may_be_deeper_than_the_stack_of_python(place: Any) -> None:
    request = place({"b": _deep(5_000, "found")})
    document = read_request(request)

    written = write_request(request, [text.upper() for text in document.texts])

    assert "found" in document.texts
    assert "FOUND" in read_request(written).texts


def test_a_deep_answer_is_written_as_it_was_read() -> None:
    content = _deep(5_000, "found")

    assert "FOUND" in read_answer(write_answer(content, [text.upper() for text in read_answer(content).texts])).texts


def test_arguments_that_are_deep_are_shown_as_json() -> None:
    deep = _deep(5_000, 'f"')
    (part,) = [part for part in read_request(_custom({"b": deep})).parts if part.text == 'f"']

    assert part.arguments == '{"b":' + '{"a":[' * 2_500 + '"f\\""' + "]}" * 2_500 + "}"


def test_paths_of_deep_values_with_long_names_are_cut() -> None:
    value: Any = ["x"] * 100
    for _ in range(100):
        value = {"n" * 10_000: value}

    assert max(len(part.path) for part in read_request(_custom(value)).parts) < 400


def test_many_keys_that_become_the_same_are_numbered_in_linear_time() -> None:
    # Counting from two on for each of them would take minutes.
    fields = dict.fromkeys(map(str, range(50_000)))

    written = write_request(_custom(fields), ["<X>"] * 50_000).fields

    assert (len(written), list(written)[-1]) == (50_000, "<X> (50000)")


_TEXT = st.text(max_size=8)
_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=8,
)
_ITEM = st.one_of(st.builds(lambda text: {"type": "text", "text": text}, _TEXT), st.just(IMAGE))
_CALL = st.builds(
    lambda name, arguments: {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}},
    _TEXT,
    _TEXT,
)
_MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": _TEXT}),
    st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(_ITEM, max_size=3)}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": st.none(), "tool_calls": st.lists(_CALL, max_size=2)}
    ),
)
_TOOL = st.builds(lambda text: {"type": "function", "function": {"name": "f", "description": text}}, _TEXT)
_REQUEST = st.builds(
    ModelRequest,
    st.just("llm/v1/chat"),
    st.fixed_dictionaries(
        {}, optional={"tools": st.lists(_TOOL, max_size=2), "max_tokens": st.integers(), "user": _TEXT}
    ),
    st.lists(_MESSAGE, max_size=4).map(tuple),
    st.lists(_TEXT, max_size=3).map(tuple),
    _VALUE,
)


@given(_REQUEST)
def test_the_same_texts_make_the_same_request(request: ModelRequest) -> None:
    assert write_request(request, read_request(request).texts) == request


@given(_REQUEST)
def test_all_strings_but_those_of_the_structure_are_read(request: ModelRequest) -> None:
    expected = [
        text
        for value in (*request.messages, *request.inputs, request.parameters)
        for text in _strings(value, without={"role", "type", "id"})
    ]
    expected += _strings(request.fields, without=set(), keys=True)

    read = [part.text for part in read_request(request).parts if not part.is_number]

    assert sorted(read) == sorted(expected)


@given(_REQUEST)
def test_all_pictures_are_counted(request: ModelRequest) -> None:
    contents = [message["content"] for message in request.messages if isinstance(message["content"], list)]

    assert read_request(request).media == sum(item is IMAGE for content in contents for item in content)


def _strings(value: Any, *, without: set[str], keys: bool = False) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item, without=without, keys=keys)]
    if not isinstance(value, Mapping) or value is IMAGE:
        return []
    inner = [
        text for key, item in value.items() if key not in without for text in _strings(item, without=without, keys=keys)
    ]
    return [*value, *inner] if keys else inner
