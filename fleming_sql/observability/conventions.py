"""What OpenTelemetry's conventions for generative AI call things; no OpenTelemetry in here.

Names and buckets are those of https://github.com/open-telemetry/semantic-conventions-genai (all in development).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from fleming_sql import jsontext
from fleming_sql.providers import ProviderRegistry
from fleming_sql.types import COMPLETIONS, CUSTOM, EMBEDDINGS, Answer, Endpoint, ModelRequest, ServedEntity

Attributes = dict[str, str | int | float | bool | list[str]]

TOKEN_BUCKETS: Final = tuple(4**power for power in range(14))
DURATION_BUCKETS: Final = tuple(0.01 * 2**power for power in range(14))
"""Seconds, from 10 ms to 82 s."""

_OPERATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {COMPLETIONS: "text_completion", EMBEDDINGS: "embeddings", CUSTOM: "custom"}
)
_PROVIDERS_BY_HOST: Final[Mapping[str, str]] = MappingProxyType(
    {
        "api.openai.com": "openai",
        "openai.azure.com": "azure.ai.openai",
        "services.ai.azure.com": "azure.ai.inference",
        "api.anthropic.com": "anthropic",
        "aiplatform.googleapis.com": "gcp.vertex_ai",
        "rep.googleapis.com": "gcp.vertex_ai",  # aiplatform.eu.rep.googleapis.com
        "generativelanguage.googleapis.com": "gcp.gemini",
        "amazonaws.com": "aws.bedrock",
        "cohere.com": "cohere",
        "deepseek.com": "deepseek",
        "groq.com": "groq",
        "mistral.ai": "mistral_ai",
        "moonshot.ai": "moonshot_ai",
        "moonshot.cn": "moonshot_ai",
        "perplexity.ai": "perplexity",
        "x.ai": "x_ai",
    }
)
_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "max_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens",
        "max_output_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "frequency_penalty": "frequency_penalty",
        "presence_penalty": "presence_penalty",
        "seed": "seed",
        "n": "choice.count",
    }
)
_PORTS: Final = MappingProxyType({"https": 443, "http": 80})


class Server(NamedTuple):
    """Where requests to an entity go."""

    address: str
    port: int


def server_of(providers: ProviderRegistry, entity: ServedEntity, endpoint: Endpoint) -> Server | None:
    """Return where requests to an entity go; None where they go nowhere, as those to the simulated model.

    The entity's provider says it, with a request that is not sent, so that each wire format's own rules hold.
    """
    request = ModelRequest(endpoint.task, {}, messages=({"role": "user", "content": ""},), inputs=("",), fields={})
    try:
        url = urlsplit(providers.get(entity.provider).encode(entity, request).url)
        port = url.port or _PORTS.get(url.scheme)
    except Exception:  # noqa: BLE001  what the provider cannot build it will say when it is called
        return None
    return Server(url.hostname, port) if url.hostname and port else None


def entity_attributes(entity: ServedEntity, endpoint: Endpoint, server: Server | None) -> Attributes:
    """Return what spans and metrics say of whom a request went to."""
    attributes: Attributes = {
        "gen_ai.operation.name": _operation_of(endpoint),
        "gen_ai.provider.name": _provider_name(entity, server),
        "gen_ai.request.model": entity.model,
    }
    if server is not None:
        attributes |= {"server.address": server.address, "server.port": server.port}
    return attributes


def _operation_of(endpoint: Endpoint) -> str:
    return _OPERATIONS.get(endpoint.task, "chat")


def _provider_name(entity: ServedEntity, server: Server | None) -> str:
    host = f".{server.address}" if server else ""
    found = (
        name
        for suffix, name in _PROVIDERS_BY_HOST.items()
        # Vertex has the region before its name: europe-west4-aiplatform.googleapis.com
        if host.endswith((f".{suffix}", f"-{suffix}"))
    )
    return next(found, entity.provider)


def request_attributes(entity: ServedEntity, parameters: Mapping[str, Any]) -> Attributes:
    """Return what a span says of the parameters of a request.

    Args:
        entity: Whose parameters lie beneath.
        parameters: The endpoint's and the call's.
    """
    attributes: Attributes = {}
    for key, value in {**entity.parameters, **parameters}.items():
        if key in _PARAMETERS and isinstance(value, int | float):
            attributes[f"gen_ai.request.{_PARAMETERS[key]}"] = value
        elif key == "stop":
            attributes["gen_ai.request.stop_sequences"] = [value] if isinstance(value, str) else list(map(str, value))
    return attributes


def answer_attributes(answer: Answer) -> Attributes:
    """Return what a span says of an answer; of tokens only what the provider counted."""
    usage = answer.usage
    known = {
        "gen_ai.response.model": answer.model,
        "gen_ai.response.finish_reasons": [answer.finish_reason] if answer.finish_reason else None,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return {key: value for key, value in known.items() if value is not None}


def content_attributes(request_body: str, answer: Answer) -> Attributes:
    """Return what was said, as JSON in the conventions' own shape.

    Args:
        request_body: As sent.
        answer: To it.
    """
    body = jsontext.loads(request_body)
    if not isinstance(body, dict):
        return {}
    asked = body.get("messages") or [{"role": "user", "content": body.get("prompt", body.get("input"))}]
    attributes: Attributes = {"gen_ai.input.messages": jsontext.dumps([_message(message) for message in asked])}
    if body.get("system"):
        attributes["gen_ai.system_instructions"] = jsontext.dumps(_parts(body["system"]))
    if isinstance(answer.content, str):
        said = {"role": "assistant", "content": answer.content}
        output = {**_message(said), "finish_reason": answer.finish_reason or "stop"}
        attributes["gen_ai.output.messages"] = jsontext.dumps([output])
    return attributes


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": message.get("role", "user"), "parts": _parts(message.get("content"))}


def _parts(content: Any) -> list[dict[str, Any]]:
    """Return the parts of a message; of what is no text only its type."""
    parts = content if isinstance(content, list) else [content]
    return [_part(part) for part in parts if part is not None]


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, dict):
        text = part.get("text")
        return {"type": "text", "content": text} if isinstance(text, str) else {"type": str(part.get("type"))}
    return {"type": "text", "content": str(part)}
