"""What a call that a guardrail has blocked says: to its caller, and to the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.errors import CallError
from fleming_sql.gateway.screening import Block
from fleming_sql.types import ModelRequest, Phase, Usage

_STATUS: Final = 400


def blocked(endpoint: str, block: Block, request_id: str) -> CallError:
    """Return the error of a call that a guardrail has blocked."""
    rule = block.guard.rule
    condition = f"{rule.phase.upper()}_GUARDRAIL_TRIGGERED"
    what = "request" if rule.phase == "input" else "answer"
    told = (
        f'[{condition}] endpoint "{endpoint}": the guardrail "{rule.name}" ({rule.kind}) blocked the {what}: '
        f"{block.reason} (finishReason {finish_reason(rule.phase)}, request id {request_id}, HTTP status {_STATUS})"
    )
    return CallError(condition, told, status=_STATUS, code="BAD_REQUEST")


def finish_reason(phase: Phase) -> str:
    """Return what Databricks calls it."""
    return f"{phase}_guardrail_triggered"


def blocked_body(block: Block, anonymized: Any, usage: Usage | None = None) -> str:
    """Return the answer that Databricks gives to a blocked call: an error whose message is JSON again.

    Args:
        block: What blocked it.
        anonymized: The messages or the answer with what was found masked; None where that cannot be said.
        usage: Tokens of the model's answer, if it was asked.

    Source: the shape of a blocked call's row in a Databricks inference table, August 2026.
    """
    rule, verdict = block.guard.rule, block.verdict
    detects_pii = block.guard.guardrail is not None and block.guard.guardrail.detects_pii
    detail = {
        "flagged": not detects_pii,
        "categories": {name: name in verdict.categories for name in verdict.scores} or None,
        "category_scores": dict(verdict.scores) or None,
        "pii_detection": detects_pii,
        f"anonymized_{rule.phase}": anonymized,
        "guardrail": rule.name,
        "reason": block.reason,
    }
    message = {
        "usage": _usage(usage or Usage(input_tokens=0)),
        f"{rule.phase}_guardrail": [detail],
        "finishReason": finish_reason(rule.phase),
    }
    return jsontext.dumps({"error_code": "BAD_REQUEST", "message": jsontext.dumps(message)})


def _usage(usage: Usage) -> Mapping[str, int]:
    prompt, completion = usage.input_tokens or 0, usage.output_tokens
    if completion is None:
        return {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def anonymized_input(request: ModelRequest) -> Sequence[Any]:
    """Return what was asked as Databricks shows it: the messages, or the texts of another task."""
    if request.messages:
        return [{"role": message.get("role"), "content": message.get("content")} for message in request.messages]
    return list(request.inputs) or [request.fields]


def request_body(request: ModelRequest) -> str:
    """Return a request in the gateway's own terms, for a log that keeps what no provider ever got."""
    said: dict[str, Any] = {}
    if request.messages:
        said["messages"] = list(request.messages)
    if request.inputs:
        said["input"] = list(request.inputs)
    if request.fields is not None:
        said["inputs"] = request.fields
    return jsontext.dumps({**said, **request.parameters})
