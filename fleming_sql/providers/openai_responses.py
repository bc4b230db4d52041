"""The Responses API of OpenAI and of agents that speak it: chat messages in, text out.

After https://platform.openai.com/docs/api-reference/responses and MLflow's ResponsesAgent, which takes and gives the
same items (https://mlflow.org/docs/latest/genai/serving/responses-agent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fleming_sql.providers.base import BadAnswer, find_error_message, object_parameter, with_parameters
from fleming_sql.providers.refusals import read_refusal
from fleming_sql.providers.rendering import known
from fleming_sql.types import Answer, ModelRequest, ResponseFormat, Usage

_LIMITS: Final = ("max_output_tokens", "max_completion_tokens", "max_tokens")
"""Names of the limit on the answer; the first is the API's own, the others those of chat completions."""
_REASONS: Final[Mapping[str, str]] = {"max_output_tokens": "length", "content_filter": "content_filter"}
"""Why an answer is incomplete, in the words of chat completions."""


def responses_body(request: ModelRequest) -> dict[str, Any]:
    """Return the body of a request, without the model.

    Messages become input items, `response_format` becomes `text.format`; limits on tokens and `reasoning_effort` get
    the names that they have in this API.

    Raises:
        BadProviderRequest: A parameter is the gateway's own.

    Example:
        >>> responses_body(ModelRequest("llm/v1/responses", {}, messages=({"role": "user", "content": "Hi"},)))
        {'input': [{'role': 'user', 'content': 'Hi'}]}
    """
    body: dict[str, Any] = {"input": [item for message in request.messages for item in _items(message)]}
    given = dict(request.parameters)
    limits = [given.pop(name) for name in _LIMITS if name in given]
    if limits:
        body["max_output_tokens"] = limits[0]
    if "reasoning_effort" in given:
        effort = given.pop("reasoning_effort")
        body["reasoning"] = {"effort": effort, **object_parameter(given, "reasoning")}
        given.pop("reasoning", None)
    text = {**object_parameter(given, "text"), **_text_settings(request.response_format, given)}
    given.pop("text", None)
    if text:
        body["text"] = text
    return with_parameters(body, given)


def read_response(payload: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return text and finish reason of a response.

    Raises:
        BadAnswer: There is no text; the message says what is there in its place.
    """
    status = payload.get("status")
    if payload.get("error"):
        message = find_error_message(payload["error"])
        raise BadAnswer(f"the response failed: {message}", refusal=read_refusal(400, payload))
    items = payload.get("output")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadAnswer("output is not a list of items")
    details = payload.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    finish_reason = _REASONS.get(reason, reason) if isinstance(reason, str) else None if status is None else "stop"
    parts = [part for item in items if item.get("type", "message") == "message" for part in _parts(item)]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    if any(texts) or (texts and finish_reason != "content_filter"):
        return "".join(texts), finish_reason
    refusal = next((part["refusal"] for part in parts if part.get("refusal")), None)
    if refusal:
        raise BadAnswer(f"the model refused: {refusal}", refusal="content_policy")
    if finish_reason == "content_filter":
        raise BadAnswer("the answer was filtered: incomplete_details.reason content_filter", refusal="content_policy")
    kinds = ", ".join(str(item.get("type")) for item in items) or "no items"
    raise BadAnswer(f"output has no text ({kinds}), status {status}, finish_reason {finish_reason}")


def render_response(answer: Answer) -> dict[str, Any]:
    """Return an answer as a response with one message, which `read_response` reads again."""
    reason = answer.finish_reason
    incomplete = reason is not None and reason != "stop"
    content = [{"type": "output_text", "text": answer.content, "annotations": []}]
    return {
        "object": "response",
        "status": None if reason is None else "incomplete" if incomplete else "completed",
        "incomplete_details": {"reason": "max_output_tokens" if reason == "length" else reason} if incomplete else None,
        "model": answer.model,
        "output": [{"type": "message", "role": "assistant", "content": content}],
        "usage": _rendered_usage(answer.usage),
        "service_tier": answer.usage.service_tier,
    }


def _items(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return a message as items; what has a type is one already."""
    if "type" in message and message["type"] != "message":
        return [message]
    role, content = message.get("role"), message.get("content")
    if role == "tool":
        return [
            {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": _plain_text(content)}
        ]
    items: list[Mapping[str, Any]] = []
    if content is not None:
        items.append({"role": role, "content": _content(role, content)})
    items += [_function_call(call) for call in message.get("tool_calls") or ()]
    return items


def _content(role: Any, content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(role, part) for part in content]


def _part(role: Any, part: Any) -> Any:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.get("text")}
    image = part.get("image_url") if kind == "image_url" else None
    if isinstance(image, Mapping):
        detail = {"detail": image["detail"]} if "detail" in image else {}
        return {"type": "input_image", "image_url": image.get("url"), **detail}
    return part


def _plain_text(content: Any) -> Any:
    """Return a tool's output, which is a text here; chat completions have it in parts too."""
    if not isinstance(content, list):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))


def _function_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function") or {}
    return {
        "type": "function_call",
        "call_id": call.get("id"),
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }


def _text_settings(wanted: ResponseFormat | None, given: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if "verbosity" in given:
        settings["verbosity"] = given.pop("verbosity")
    if wanted is not None and wanted.kind == "json_object":
        settings["format"] = {"type": "json_object"}
    elif wanted is not None and wanted.kind == "json_schema":
        strict = {} if wanted.strict is None else {"strict": wanted.strict}
        settings["format"] = {"type": "json_schema", "name": wanted.name, "schema": wanted.schema, **strict}
    return settings


def _parts(item: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = item.get("content")
    if isinstance(content, str):
        return [{"type": "output_text", "text": content}]
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _rendered_usage(usage: Usage) -> dict[str, Any]:
    counts: dict[str, Any] = known(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    inputs = known(cached_tokens=usage.cached_input_tokens, cache_write_tokens=usage.cache_write_tokens)
    outputs = known(reasoning_tokens=usage.reasoning_tokens)
    if inputs:
        counts["input_tokens_details"] = inputs
    if outputs:
        counts["output_tokens_details"] = outputs
    return counts
