"""Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from fleming_sql.jsontext import dumpb, dumps
from fleming_sql.providers.anthropic_requests import to_body
from fleming_sql.providers.base import BadAnswer, BadProviderRequest, Provider
from fleming_sql.providers.provider_config import address_of, config_problem
from fleming_sql.providers.rendering import known
from fleming_sql.providers.usage import read_count, read_text
from fleming_sql.types import CHAT, Answer, ModelRequest, OutgoingRequest, Secret, ServedEntity, Usage

BASE_URL: Final = "https://api.anthropic.com/v1"
VERSION: Final = "2023-06-01"
_FINISH_REASONS: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
"""Anthropic's stop reasons in the words of the chat completions that the rest of the gateway knows."""
_STOP_REASONS: Final[Mapping[str, str]] = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
"""The other way round, by the likeliest of those that are one there."""


class Anthropic(Provider):
    """Claude models at Anthropic, or at a server that speaks its Messages API.

    Example:
        >>> Anthropic().encode(entity, request).url
        'https://api.anthropic.com/v1/messages'
    """

    tasks: ClassVar[frozenset[str]] = frozenset({CHAT})
    description: ClassVar[str] = "Anthropic's Messages API"
    public_url: ClassVar[str | None] = BASE_URL
    credential_variable: ClassVar[str | None] = "ANTHROPIC_API_KEY"
    documentation_url: ClassVar[str | None] = "https://docs.anthropic.com/en/api/messages"
    secret_keys: ClassVar[tuple[str, ...]] = ("anthropic_api_key",)
    config_keys: ClassVar[frozenset[str]] = frozenset({"anthropic_api_key", "anthropic_version", "anthropic_beta"})

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a chat into a message request.

        Raises:
            BadProviderRequest: A message or a parameter has no place in this API.
        """
        if request.task != CHAT:
            raise BadProviderRequest(
                f'provider "{entity.provider}" cannot serve the task {request.task} (table endpoints, column task)'
            )
        base = address_of(entity) or BASE_URL
        url = f"{base}/messages" if base.endswith("/v1") else f"{base}/v1/messages"
        headers = {"anthropic-version": _config(entity, "anthropic_version") or VERSION}
        if beta := _config(entity, "anthropic_beta"):
            headers["anthropic-beta"] = beta
        return OutgoingRequest(url, dumpb(to_body(entity.model, request)), headers)

    def authorize(
        self, entity: ServedEntity, outgoing: OutgoingRequest, secrets: Mapping[str, Secret]
    ) -> Mapping[str, str]:
        """Return the header `x-api-key`."""
        secret = self.find_secret(secrets)
        return {"x-api-key": secret.reveal()} if secret else {}

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return True for Anthropic itself; another server may ask for none."""
        return entity.base_url is None or "://api.anthropic.com" in entity.base_url

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read a message: its text, or the forced tool's input where the request has a response format.

        Raises:
            BadAnswer: There is neither.
        """
        if not isinstance(payload, dict):
            raise BadAnswer(f"the answer is not an object but {type(payload).__name__}")
        blocks = payload.get("content")
        reason = payload.get("stop_reason")
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            raise BadAnswer("content is not a list of blocks")
        wanted = request.response_format
        content = _tool_input(blocks) if wanted is not None and wanted.kind != "text" else None
        if content is None:
            content = _text(blocks, reason)
        model = payload.get("model")
        return Answer(
            content=content,
            usage=_usage(payload.get("usage")),
            model=model if isinstance(model, str) else None,
            finish_reason=_FINISH_REASONS.get(reason, reason) if isinstance(reason, str) else None,
        )

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return an answer as a message with one block of text, which is read whatever the response format is."""
        reason = answer.finish_reason
        return {
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": [{"type": "text", "text": answer.content}],
            "stop_reason": None if reason is None else _STOP_REASONS.get(reason, reason),
            "usage": _rendered_usage(answer.usage),
        }


def _config(entity: ServedEntity, key: str) -> str | None:
    """Return a header's value out of the provider_config; a list becomes a list with commas."""
    value = entity.provider_config.get(key)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if value is None or isinstance(value, str):
        return value or None
    raise config_problem(entity, key, "must be a text")


def _tool_input(blocks: list[dict[str, Any]]) -> str | None:
    for block in blocks:
        if block.get("type") == "tool_use" and "input" in block:
            return dumps(block["input"])
    return None


def _text(blocks: list[dict[str, Any]], reason: Any) -> str:
    texts = [block["text"] for block in blocks if block.get("type") == "text" and "text" in block]
    text = "".join(texts) if texts and all(isinstance(text, str) for text in texts) else None
    if text:
        return text
    if reason == "refusal":
        raise BadAnswer("the model refused: stop_reason refusal", refusal="content_policy")
    if reason == "model_context_window_exceeded":
        raise BadAnswer(f"the model has no room to answer: stop_reason {reason}", refusal="context_window")
    if text is not None:
        return text
    kinds = ", ".join(str(block.get("type")) for block in blocks) or "no blocks"
    raise BadAnswer(f"content has no block of type text ({kinds}), stop_reason {reason}")


def _usage(usage: Any) -> Usage:
    """Read the counts: Anthropic keeps input that its cache takes or gives apart, the gateway counts it as input."""
    if not isinstance(usage, dict):
        return Usage()
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    counts = [count for count in (read_count(usage, part) for part in parts) if count is not None]
    details = usage.get("output_tokens_details")
    return Usage(
        input_tokens=sum(counts) if counts else None,
        output_tokens=read_count(usage, "output_tokens"),
        cached_input_tokens=read_count(usage, "cache_read_input_tokens"),
        reasoning_tokens=read_count(details, "thinking_tokens") if isinstance(details, dict) else None,
        cache_write_tokens=read_count(usage, "cache_creation_input_tokens"),
        service_tier=_tier(usage),
    )


def _rendered_usage(usage: Usage) -> dict[str, Any]:
    """Return the counts as Anthropic keeps them, what its cache took or gave apart from other input."""
    cached = (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
    counts: dict[str, Any] = known(
        input_tokens=None if usage.input_tokens is None else max(0, usage.input_tokens - cached),
        cache_read_input_tokens=usage.cached_input_tokens,
        cache_creation_input_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    if usage.reasoning_tokens is not None:
        counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.service_tier is not None:
        counts["service_tier"] = usage.service_tier
    return counts


def _tier(usage: Mapping[str, Any]) -> str | None:
    """Return what the price depends on besides the counts: the tier, or the fast mode, which is charged like one.

    What is kept in the cache for an hour costs more than what is kept for five minutes, and has no price of its own in
    `model_prices`: as a tier without a row it leaves the cost unknown.
    """
    created = usage.get("cache_creation")
    if isinstance(created, dict) and read_count(created, "ephemeral_1h_input_tokens"):
        return "cache_1h"
    return "fast" if usage.get("speed") == "fast" else read_text(usage, "service_tier")
