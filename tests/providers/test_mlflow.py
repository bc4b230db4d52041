"""MLflow's `/invocations`, over real sockets and by its forms."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from conftest import Con, Serve

from fleming_sql.jsontext import loads
from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.providers.mlflow import MlflowModelServing
from fleming_sql.testing import MockModel, Received, Reply
from fleming_sql.types import (
    AGENT_CHAT,
    AGENT_RESPONSES,
    CHAT,
    COMPLETIONS,
    CUSTOM,
    EMBEDDINGS,
    ModelRequest,
    ServedEntity,
    Task,
)

_HI = ({"role": "user", "content": "hi"},)


def _entity(**config: Any) -> ServedEntity:
    return ServedEntity(
        "id", "m", "one", "mlflow-model-serving", "", "http://127.0.0.1:5000/", None, 100, 0, {}, config
    )


def _request(fields: Any, **parameters: Any) -> ModelRequest:
    return ModelRequest(CUSTOM, parameters, fields=fields)


def _body(request: ModelRequest, **config: Any) -> Any:
    return loads(MlflowModelServing().encode(_entity(**config), request).body)


def _scores(received: Received) -> Reply:
    """A model with the columns text and n, as MLflow's scoring server answers."""
    if received.path != "/invocations":
        return Reply(404, {"error_code": "NOT_FOUND", "message": "no such path"})
    records = received.json().get("dataframe_records")
    if not records or not {"text", "n"} <= records[0].keys():
        return Reply(400, {"error_code": "BAD_REQUEST", "message": "Model is missing inputs ['text', 'n']."})
    return Reply(body={"predictions": [{"label": row["text"][:1], "score": row["n"] / 2} for row in records]})


def _serve(serve: Serve, reply: Any, task: Task = CUSTOM, **columns: Any) -> MockModel:
    return serve(reply, task=task, provider="mlflow-model-serving", max_retries=0, **columns)


def test_a_struct_is_a_record_and_the_prediction_has_the_type_that_was_asked_for(con: Con, serve: Serve) -> None:
    _serve(serve, _scores)

    [(answer,)] = con.execute(
        "select ai_query('chat', {'text': 'spam', 'n': 3}, returnType => 'STRUCT<label: STRING, score: DOUBLE>')"
    ).fetchall()

    assert answer == {"label": "s", "score": 1.5}


def test_what_a_model_refuses_is_told_in_its_words(con: Con, serve: Serve) -> None:
    _serve(serve, _scores)

    with pytest.raises(duckdb.Error, match="code 400, and error message 'Model is missing inputs"):
        con.execute("select ai_query('chat', {'text': 'spam'}, returnType => 'DOUBLE')").fetchall()


@pytest.mark.parametrize(
    ("fields", "config", "body"),
    [
        ({"a": 1, "b": None}, {}, {"dataframe_records": [{"a": 1, "b": None}]}),
        ("text", {}, {"inputs": ["text"]}),
        ([1.5, 2.0], {}, {"inputs": [[1.5, 2.0]]}),
        ({"a": 1}, {"input_format": "dataframe_split"}, {"dataframe_split": {"columns": ["a"], "data": [[1]]}}),
        ({"a": 1}, {"input_format": "inputs"}, {"inputs": {"a": [1]}}),
        ({"a": 1}, {"input_format": "instances"}, {"instances": [{"a": 1}]}),
        ([1, 2], {"input_format": "instances"}, {"instances": [[1, 2]]}),
        ({"instances": [[1], [2]]}, {}, {"instances": [[1], [2]]}),
        ({"inputs": [1], "params": {"k": 2}}, {}, {"inputs": [1], "params": {"k": 2}}),
    ],
)
def test_each_form_of_input(fields: Any, config: dict[str, str], body: Any) -> None:
    assert _body(_request(fields), **config) == body


def test_parameters_of_the_entity_are_the_models_params() -> None:
    assert _body(_request("a", top_k=3)) == {"inputs": ["a"], "params": {"top_k": 3}}


@pytest.mark.parametrize("fields", ["text", None, [1]])
@pytest.mark.parametrize("input_format", ["dataframe_records", "dataframe_split"])
def test_a_data_frame_needs_columns(fields: Any, input_format: str) -> None:
    with pytest.raises(BadProviderRequest, match="takes a STRUCT whose fields are the model's columns"):
        _body(_request(fields), input_format=input_format)


def test_an_input_format_that_is_none_is_named_with_those_there_are() -> None:
    with pytest.raises(BadProviderRequest, match=r'is "csv" and must be one of.*dataframe_records'):
        _body(_request("a"), input_format="csv")


def test_without_an_address_the_column_is_named() -> None:
    entity = ServedEntity("id", "m", "one", "mlflow-model-serving", "", None, None, 100, 0, {}, {})

    with pytest.raises(BadProviderRequest, match=r"set the column base_url.*m/one"):
        MlflowModelServing().encode(entity, _request("a"))


@pytest.mark.parametrize(
    ("fields", "payload", "content"),
    [
        ("a", {"predictions": [0.5]}, 0.5),
        ("a", {"predictions": [[1, 2]]}, [1, 2]),
        ("a", {"predictions": {"label": ["x"], "score": [0.5]}}, {"label": "x", "score": 0.5}),
        ("a", {"predictions": {"label": "x"}}, {"label": "x"}),
        ("a", {"outputs": [{"f": 1}]}, {"f": 1}),
        ("a", [0.5], 0.5),
        ({"inputs": [1, 2]}, {"predictions": [0.1, 0.2]}, [0.1, 0.2]),
    ],
)
def test_the_prediction_for_one_input_comes_alone(fields: Any, payload: Any, content: Any) -> None:
    assert MlflowModelServing().decode(_request(fields), payload).content == content


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"predictions": [1, 2]}, "2 items for one input"),
        ({"predictions": []}, "0 items for one input"),
        ({"error_code": "X", "message": "broken"}, "predictions is missing; the server says: broken"),
        ("text", "not an object but str"),
    ],
)
def test_answers_that_are_no_predictions_are_refused(payload: Any, told: str) -> None:
    with pytest.raises(BadAnswer, match=told):
        MlflowModelServing().decode(_request("a"), payload)


def _agent(received: Received) -> Reply:
    """An agent that tells what it was given, in the form of its task."""
    body = received.json()
    beside = {"custom_outputs": {"got": body.get("custom_inputs")}}
    if body.get("databricks_options", {}).get("return_trace"):
        beside["databricks_output"] = {"trace": {"info": {"id": "t-1"}}}
    if "input" in body:
        item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "done"}]}
        usage = {"input_tokens": 7, "output_tokens": 2}
        return Reply(body={"object": "response", "status": "completed", "output": [item], "usage": usage, **beside})
    said = [{"role": "tool", "content": "x", "id": "1"}, {"role": "assistant", "content": "done", "id": "2"}]
    return Reply(body={"messages": said, "finish_reason": "stop", "usage": {"prompt_tokens": 7}, **beside})


@pytest.mark.parametrize("task", [AGENT_CHAT, AGENT_RESPONSES])
def test_an_agents_answer_is_what_it_says_last(con: Con, serve: Serve, task: Task) -> None:
    _serve(serve, _agent, task)

    assert con.execute("select ai_query('chat', 'hi')").fetchall() == [("done",)]
    usage = "select input_token_count, tokens_estimated from fleming.serving.endpoint_usage"
    assert con.execute(usage).fetchall()[0][0] == 7


@pytest.mark.parametrize(("task", "field"), [(AGENT_CHAT, "messages"), (AGENT_RESPONSES, "input")])
def test_custom_inputs_go_along_and_a_trace_comes_back(con: Con, serve: Serve, task: Task, field: str) -> None:
    server = _serve(serve, _agent, task)
    request = (
        f"{{'{field}': [{{'role': 'user', 'content': 'hi'}}], 'custom_inputs': {{'id': 5}}, 'return_trace': true}}"
    )

    [(answer,)] = con.execute(
        f"select ai_query('chat', {request}, returnType => 'STRUCT<text: STRING, custom_outputs: "
        "STRUCT<got: STRUCT<id: INT>>, databricks_output: JSON>')"
    ).fetchall()

    assert (answer["text"], answer["custom_outputs"]) == ("done", {"got": {"id": 5}})
    assert loads(answer["databricks_output"]) == {"trace": {"info": {"id": "t-1"}}}
    sent = server.requests[0].json()
    assert (sent["custom_inputs"], sent["databricks_options"]) == ({"id": 5}, {"return_trace": True})


def test_an_agent_is_asked_again_each_time(con: Con, serve: Serve) -> None:
    server = _serve(serve, _agent, AGENT_RESPONSES)

    for _ in range(2):
        con.execute("select ai_query('chat', 'hi')").fetchall()

    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("task", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
        (COMPLETIONS, {"prompt": "hi", "max_tokens": 3}),
        (EMBEDDINGS, {"input": ["hi"], "max_tokens": 3}),
        (AGENT_RESPONSES, {"input": [{"role": "user", "content": "hi"}], "max_output_tokens": 3}),
    ],
)
def test_other_tasks_have_openais_bodies_without_a_model(task: Task, body: Any) -> None:
    assert _body(ModelRequest(task, {"max_tokens": 3}, messages=_HI, inputs=("hi",))) == body
