"""The bodies of chat completions, text completions and embeddings in OpenAI's wire format."""

from __future__ import annotations

from typing import Any

from fleming_sql.types import COMPLETIONS, EMBEDDINGS, ModelRequest, ResponseFormat


def request_body(request: ModelRequest) -> dict[str, Any]:
    """Return what a request asks, without model and parameters.

    Example:
        >>> request_body(ModelRequest("llm/v1/embeddings", {}, inputs=("a", "b")))
        {'input': ['a', 'b']}
    """
    if request.task == EMBEDDINGS:
        return {"input": list(request.inputs)}
    if request.task == COMPLETIONS:
        return {"prompt": request.inputs[0], **_response_format(request.response_format)}
    return {"messages": list(request.messages), **_response_format(request.response_format)}


def _response_format(wanted: ResponseFormat | None) -> dict[str, Any]:
    if wanted is None or wanted.kind == "text":
        return {}
    if wanted.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    envelope: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
    if wanted.strict is not None:
        envelope["strict"] = wanted.strict
    return {"response_format": {"type": "json_schema", "json_schema": envelope}}
