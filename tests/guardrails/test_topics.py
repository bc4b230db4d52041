from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql import jsontext
from fleming_sql.guardrails import BadConfig, Surroundings, find_kind, make_guardrail
from fleming_sql.guardrails.base import PASS, ModelGuardrail, Undecided
from fleming_sql.guardrails.documents import Document, Part, read_answer
from fleming_sql.guardrails.topics import Topics

_TOPICS = ["Billing", "Returns and refunds"]
_DOCUMENT = Document("input", (Part("where is my money?", "messages[0].content", "user"),))
_OFF_TOPIC = "off topic: none of Billing, Returns and refunds"


def _topics(**config: Any) -> ModelGuardrail:
    made = make_guardrail("topics", "block", json.dumps({"endpoint": "e", "topics": _TOPICS, **config}), Surroundings())
    assert isinstance(made, ModelGuardrail)
    return made


def _answer(topic: Any) -> str:
    return json.dumps({"topic": topic})


def test_the_topics_stand_in_the_system_message_as_json() -> None:
    system = _topics().question(_DOCUMENT).request["messages"][0]["content"]
    assert '["Billing","Returns and refunds"]' in system


def test_the_texts_go_as_data() -> None:
    user = _topics().question(_DOCUMENT).request["messages"][1]["content"]
    assert jsontext.loads(user) == {"texts": [{"role": "user", "text": "where is my money?"}]}


def test_an_answer_goes_with_its_request_as_context() -> None:
    user = _topics().question(read_answer("here", _DOCUMENT)).request["messages"][1]["content"]
    assert jsontext.loads(user)["context"] == [{"role": "user", "text": "where is my money?"}]


def test_the_model_is_asked_without_chance() -> None:
    question = _topics().question(_DOCUMENT)
    assert (question.endpoint, question.parameters) == ("e", {})


@pytest.mark.parametrize("topic", ["Billing", "billing", " BILLING\n", "returns  AND\trefunds"])
def test_a_listed_topic_passes_in_any_case_and_spacing(topic: str) -> None:
    assert _topics().read(_DOCUMENT, _answer(topic)) == PASS


@pytest.mark.parametrize("listed", [" Billing ", "Größe\nund Farbe"])
def test_spacing_in_the_config_does_not_count(listed: str) -> None:
    assert _topics(topics=[listed]).read(_DOCUMENT, _answer(" ".join(listed.split()).upper())) == PASS


@pytest.mark.parametrize("topic", [None, "poetry", "", "Billing, Returns and refunds", "Bill"])
def test_what_is_not_listed_is_off_topic(topic: str | None) -> None:
    assert _topics().read(_DOCUMENT, _answer(topic)).reason == _OFF_TOPIC


@pytest.mark.parametrize(
    "answer",
    [
        "Billing",
        "{}",
        "null",
        '{"topics": "Billing"}',
        '{"topic": true}',
        '{"topic": false}',
        '{"topic": 0}',
        '{"topic": ["Billing"]}',
        '{"topic": {"name": "Billing"}}',
        '{"topic": "Billing"} as you said',
        '{"topic": null, "topic": "Billing"}',
        None,
        {"topic": "Billing"},
    ],
)
def test_an_answer_in_another_form_is_no_decision(answer: Any) -> None:
    with pytest.raises(Undecided):
        _topics().read(_DOCUMENT, answer)


@given(st.text())
def test_no_other_text_passes(topic: str) -> None:
    known = {"billing", "returns and refunds"}
    passed = _topics().read(_DOCUMENT, _answer(topic)).reason is None
    assert passed == (" ".join(topic.split()).casefold() in known)


def test_the_reason_names_the_first_of_many_topics() -> None:
    reason = _topics(topics=[f"t{n}" for n in range(30)]).read(_DOCUMENT, _answer(None)).reason
    assert reason == "off topic: none of t0, t1, t2, t3, t4, t5, t6, t7, t8, t9 and 20 more"


@pytest.mark.parametrize(
    "config",
    [
        {"topics": _TOPICS},
        {"endpoint": "e"},
        {"endpoint": "e", "topics": []},
        {"endpoint": "e", "topics": "Billing"},
        {"endpoint": "e", "topics": [""]},
        {"endpoint": "e", "topics": ["Billing", " "]},
        {"endpoint": "e", "topics": [3]},
        {"endpoint": "e", "topics": _TOPICS, "prompt": "x"},
    ],
)
def test_a_config_that_cannot_be_gone_by_is_refused(config: Any) -> None:
    with pytest.raises(BadConfig):
        make_guardrail("topics", "block", json.dumps(config), Surroundings())


def test_topics_mask_nothing() -> None:
    assert Topics.behaviors == ("block", "log")


def test_the_registry_knows_the_kind() -> None:
    assert find_kind("topics") is Topics
