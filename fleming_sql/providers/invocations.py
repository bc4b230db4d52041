"""What MLflow's model servers and Databricks' serving endpoints take and give at `/invocations`.

After https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally (scoring protocol) and
https://docs.databricks.com/api/workspace/servingendpoints/query: custom models take data frames or tensors and answer
with `predictions`; chats, completions, embeddings and agents are as at OpenAI, but for the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fleming_sql.providers.base import (
    BadAnswer,
    BadProviderRequest,
    find_error_message,
    object_parameter,
    with_parameters,
)
from fleming_sql.providers.openai_answers import read_chat, read_completion, read_embeddings
from fleming_sql.providers.openai_requests import request_body
from fleming_sql.providers.openai_responses import read_response, render_response, responses_body
from fleming_sql.providers.rendering import render_openai
from fleming_sql.providers.usage import read_usage
from fleming_sql.types import (
    AGENT_CHAT,
    AGENT_RESPONSES,
    CHAT,
    COMPLETIONS,
    CUSTOM,
    EMBEDDINGS,
    RESPONSES,
    Answer,
    ModelRequest,
    Usage,
)

TASKS: Final = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, AGENT_CHAT, AGENT_RESPONSES, CUSTOM})
INPUT_FORMATS: Final = ("dataframe_records", "dataframe_split", "inputs", "instances")
_ITEMS: Final = frozenset({RESPONSES, AGENT_RESPONSES})
_OPTIONS: Final = "databricks_options"
_OUTPUTS: Final = ("custom_outputs", "databricks_output")


def invocation_body(request: ModelRequest, input_format: str | None) -> dict[str, Any]:
    """Return the body of a request of any task, without a model.

    Args:
        request: Of a custom model: a STRUCT is one record of a data frame, anything else one input, unless it is a
            body by itself, with one of `INPUT_FORMATS` as a field.
        input_format: One of `INPUT_FORMATS` for custom models; None chooses by the request.

    Raises:
        BadProviderRequest: The request does not fit the format.

    Example:
        >>> invocation_body(ModelRequest("custom", {}, fields={"text": "a"}), None)
        {'dataframe_records': [{'text': 'a'}]}
    """
    if request.task == CUSTOM:
        return _custom_body(request, input_format)
    parameters = _with_trace(request.parameters)
    if request.task in _ITEMS:
        return responses_body(replace(request, parameters=parameters))
    return with_parameters(request_body(request), parameters)


def read_invocation(request: ModelRequest, payload: Any) -> Answer:
    """Read the answer to a request of any task.

    An agent's answer is its text; where the request asked for a trace it is an object with `text`, `custom_outputs`
    and `databricks_output`, the last two as the agent gave them.

    Raises:
        BadAnswer: The payload is not of the task's form.
    """
    if not isinstance(payload, dict):
        if request.task == CUSTOM and isinstance(payload, list):  # servers before MLflow 2 answer with the bare list
            return Answer(_prediction(request, payload), Usage())
        raise BadAnswer(f"the answer is not an object but {type(payload).__name__}")
    model = payload.get("model")
    model = model if isinstance(model, str) else None
    if request.task == CUSTOM:
        return Answer(_prediction(request, _predictions(payload)), read_usage(payload.get("usage")), model)
    content, finish_reason = _read_content(request, payload)
    if _wants_trace(request.parameters):
        content = {"text": content, **{key: payload[key] for key in _OUTPUTS if payload.get(key) is not None}}
    usage = read_usage(payload.get("usage"), payload.get("service_tier"))
    return Answer(content, usage, model, finish_reason)


def render_invocation(request: ModelRequest, answer: Answer) -> Any:
    """Return an answer as it would have come, for `read_invocation` to read again."""
    if request.task == CUSTOM and not _is_one(request):
        return {"predictions": answer.content, "model": answer.model}
    if not _wants_trace(request.parameters) or not isinstance(answer.content, Mapping):
        return render_response(answer) if request.task in _ITEMS else render_openai(request.task, answer)
    told = Answer(answer.content.get("text"), answer.usage, answer.model, answer.finish_reason)
    body = render_response(told) if request.task in _ITEMS else render_openai(request.task, told)
    return {**body, **{key: answer.content[key] for key in _OUTPUTS if key in answer.content}}


def _custom_body(request: ModelRequest, input_format: str | None) -> dict[str, Any]:
    beside = {"params": dict(request.parameters)} if request.parameters else {}
    given = request.fields
    if not _is_one(request):
        return {**beside, **given}
    if input_format is None:
        input_format = "dataframe_records" if isinstance(given, Mapping) else "inputs"
    if input_format == "dataframe_records" and isinstance(given, Mapping):
        return {input_format: [given], **beside}
    if input_format == "dataframe_split" and isinstance(given, Mapping):
        return {input_format: {"columns": list(given), "data": [list(given.values())]}, **beside}
    if input_format == "inputs" and isinstance(given, Mapping):
        return {input_format: {name: [value] for name, value in given.items()}, **beside}
    if input_format in ("inputs", "instances"):
        return {input_format: [given], **beside}
    raise BadProviderRequest(
        f"the input_format {input_format} of this custom model takes a STRUCT whose fields are the model's columns; "
        f"the request is {'NULL' if given is None else type(given).__name__}"
    )


def _is_one(request: ModelRequest) -> bool:
    """Return whether the request is one input, and not a body by itself."""
    given = request.fields
    return not (isinstance(given, Mapping) and sum(name in given for name in INPUT_FORMATS) == 1)


def _predictions(payload: Mapping[str, Any]) -> Any:
    for name in ("predictions", "outputs"):  # `outputs` where features are served
        if name in payload:
            return payload[name]
    told = f"; the server says: {find_error_message(payload)}" if "error_code" in payload else ""
    raise BadAnswer(f"predictions is missing{told}")


def _prediction(request: ModelRequest, predictions: Any) -> Any:
    """Return the prediction for the one input, or all where the request brought its own body."""
    if not _is_one(request):
        return predictions
    if isinstance(predictions, list):
        if len(predictions) != 1:
            raise BadAnswer(f"predictions has {len(predictions)} items for one input")
        return predictions[0]
    if isinstance(predictions, dict) and all(isinstance(v, list) and len(v) == 1 for v in predictions.values()):
        return {name: values[0] for name, values in predictions.items()}  # a column for each output
    return predictions


def _read_content(request: ModelRequest, payload: Mapping[str, Any]) -> tuple[Any, str | None]:
    if request.task == EMBEDDINGS:
        return read_embeddings(payload, len(request.inputs)), None
    if request.task == COMPLETIONS:
        return read_completion(payload)
    if request.task in _ITEMS:
        return read_response(payload)
    if isinstance(payload.get("messages"), list):
        return _read_chat_agent(payload)
    return read_chat(payload)


def _read_chat_agent(payload: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return what MLflow's ChatAgent says last; the messages before it are its way there."""
    reason = payload.get("finish_reason")
    for message in reversed(payload["messages"]):
        if isinstance(message, dict) and message.get("role") == "assistant" and isinstance(message.get("content"), str):
            return message["content"], reason if isinstance(reason, str) else None
    raise BadAnswer("messages has no text of the role assistant")


def _with_trace(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters with `return_trace` where Databricks' agents look for it."""
    if "return_trace" not in parameters:
        return parameters
    others = {key: value for key, value in parameters.items() if key != "return_trace"}
    return {**others, _OPTIONS: {"return_trace": parameters["return_trace"], **object_parameter(others, _OPTIONS)}}


def _wants_trace(parameters: Mapping[str, Any]) -> bool:
    options = _with_trace(parameters).get(_OPTIONS)
    return isinstance(options, Mapping) and options.get("return_trace") is True
