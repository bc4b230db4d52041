"""The errors that the gateway itself ends a call with: one text each, with the request id and what to change."""

from __future__ import annotations

from typing import Final

from fleming_sql.errors import CallError
from fleming_sql.gateway.budgets import BudgetRefused
from fleming_sql.gateway.limiter import LimitReached
from fleming_sql.gateway.plan import Plan
from fleming_sql.guardrails.base import Undecided
from fleming_sql.policies.answers import AnswerMismatch
from fleming_sql.policies.requests import BadRequest
from fleming_sql.types import Endpoint

_UNDECIDED: Final = "GUARDRAIL_UNDECIDED"
_OWN_CODES: Final = frozenset({"BUDGET_EXCEEDED", "CONFIG_PROBLEM", "CREDENTIAL_ERROR", "REQUEST_LIMIT_EXCEEDED"})
"""Codes of errors that the gateway words itself; those of servers and models may quote what they were asked."""


def undecided_answer(plan: Plan, undecided: Undecided, request_id: str) -> CallError:
    """Return the error of a guardrail's call whose answer the guardrail cannot read."""
    told = f'[{_UNDECIDED}] endpoint "{plan.endpoint_name}": {undecided} (request id {request_id}, HTTP status 422)'
    return CallError(_UNDECIDED, told, status=422, code="INVALID_RESPONSE")


def why_silent(plan: Plan, error: CallError, request_id: str) -> str:
    """Return why a model said nothing to a guardrail, without a word of the text that it was asked about."""
    if error.code in _OWN_CODES or error.condition == _UNDECIDED or plan.refusal is not None:
        return error.message
    told = f'endpoint "{plan.endpoint_name}" failed with {error.code}, HTTP status {error.status}'
    if error.code == "DEADLINE_EXCEEDED" and plan.endpoint is not None:
        told += f", after the {plan.endpoint.timeout_ms} ms that timeout_ms of guardrail and endpoint give it"
    return f"{told} (request id {request_id})"


def unreadable(endpoint: Endpoint, error: BadRequest, request_id: str) -> CallError:
    """Return the error of a call whose request does not fit the endpoint."""
    condition = "AI_FUNCTION_UNSUPPORTED_REQUEST"
    told = f'[{condition}] endpoint "{endpoint.name}": {error} (request id {request_id}, HTTP status 400)'
    return CallError(condition, told, status=400, code="BAD_REQUEST")


def mismatched(plan: Plan, mismatch: AnswerMismatch, request_id: str) -> CallError:
    """Return the error of a call whose answer does not fit what was asked for."""
    advice = (
        "check responseFormat, or use a model that keeps to a schema"
        if mismatch.retryable
        else "check returnType against what the model answers"
    )
    told = (
        f'[{mismatch.condition}] endpoint "{plan.endpoint_name}": {mismatch.reason}; {advice} '
        f"(request id {request_id}, HTTP status 422)"
    )
    return CallError(mismatch.condition, told, status=422, code="INVALID_RESPONSE")


def unexpected(plan: Plan, error: Exception, request_id: str) -> CallError:
    """Return the error of a call that failed inside the gateway."""
    told = (
        f'[INTERNAL_ERROR] endpoint "{plan.endpoint_name}": the gateway failed with {type(error).__name__}; please '
        f'report it with what the logger "fleming_sql" says at DEBUG (request id {request_id}, HTTP status 500)'
    )
    return CallError("INTERNAL_ERROR", told, status=500, code="INTERNAL_ERROR")


def over_budget(endpoint: Endpoint, refused: BudgetRefused, request_id: str) -> CallError:
    """Return the error of a call that a budget does not let through."""
    condition = "BUDGET_EXCEEDED"
    told = f'[{condition}] endpoint "{endpoint.name}": {refused.reason} (request id {request_id}, HTTP status 403)'
    return CallError(condition, told, status=403, code=condition)


def limited(endpoint: Endpoint, reached: LimitReached, request_id: str) -> CallError:
    """Return the error of a call that a rate limit does not let through."""
    condition = "REQUEST_LIMIT_EXCEEDED"
    limit = reached.bound.limit
    if reached.wait_s == float("inf"):
        what = (
            f"this call may use up to {reached.amount} tokens, more than {reached.bound.describe()} ever leaves: lower "
            "max_tokens, shorten the request or raise the limit"
        )
    else:
        advice = "raise max_wait_ms" if limit.waits else "set on_exceeded to wait"
        what = (
            f"{reached.bound.describe()} is used up: try again in {reached.wait_s:.1f} s, {advice} or raise the limit"
        )
    told = f'[{condition}] endpoint "{endpoint.name}": {what} (request id {request_id}, HTTP status 429)'
    return CallError(condition, told, status=429, code=condition)
