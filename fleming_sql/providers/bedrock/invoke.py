"""Requests to Bedrock's InvokeModel API, whose bodies are those of the models' makers.

After the pages of https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html: Titan text and Titan
embeddings, Cohere Command and Embed, Jurassic-2 and Jamba of AI21 Labs, Anthropic's text completions and messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fleming_sql.providers.anthropic_requests import to_body as anthropic_body
from fleming_sql.providers.base import BadProviderRequest, with_parameters
from fleming_sql.providers.bedrock.settings import config_object, needed_family_of
from fleming_sql.providers.provider_config import config_problem
from fleming_sql.types import COMPLETIONS, EMBEDDINGS, ModelRequest, ResponseFormat, ServedEntity

_Body = dict[str, Any]

ANTHROPIC_VERSION: Final = "bedrock-2023-05-31"
MAX_COHERE_INPUTS: Final = 96
_DEFAULT_MAX_TOKENS: Final = 4096
_LIMITS: Final = ("max_tokens", "max_completion_tokens")


def to_native_body(entity: ServedEntity, request: ModelRequest) -> _Body:
    """Return the body of a request, as the model's maker has it.

    Raises:
        BadProviderRequest: The maker is not known, has no such task, or has no place for a parameter.
    """
    family = needed_family_of(entity)
    writers = {EMBEDDINGS: _EMBEDDINGS, COMPLETIONS: _COMPLETIONS}.get(request.task, _CHATS)
    writer = writers.get(family)
    if writer is None:
        known = " and ".join(sorted(writers))
        instead = "remove bedrock_api" if writers is _CHATS else "change the task or the model"
        raise config_problem(
            entity,
            "bedrock_provider",
            f'makes it a model of "{family}", and InvokeModel serves {request.task} for {known} only: {instead}',
        )
    return writer(entity.model, request)


def headers_of(entity: ServedEntity, task: str) -> dict[str, str]:
    """Return the headers by which InvokeModel takes what Converse has in its body."""
    headers = {}
    guardrail = config_object(entity, "guardrailConfig", "guardrailIdentifier", "guardrailVersion")
    if guardrail and task != EMBEDDINGS:
        headers["X-Amzn-Bedrock-GuardrailIdentifier"] = guardrail["guardrailIdentifier"]
        headers["X-Amzn-Bedrock-GuardrailVersion"] = guardrail["guardrailVersion"]
        if isinstance(trace := guardrail.get("trace"), str):
            headers["X-Amzn-Bedrock-Trace"] = trace.upper()
    if performance := config_object(entity, "performanceConfig", "latency"):
        headers["X-Amzn-Bedrock-PerformanceConfig-Latency"] = performance["latency"]
    return headers


def max_inputs_of(family: str | None) -> int:
    """Return how many texts one embeddings request may carry."""
    return MAX_COHERE_INPUTS if family == "cohere" else 1


# ---------------------------------------------------------------- embeddings


def _titan_embeddings(model: str, request: ModelRequest) -> _Body:
    return with_parameters({"inputText": request.inputs[0]}, _embedding_parameters(request))


def _cohere_embeddings(model: str, request: ModelRequest) -> _Body:
    parameters = {"input_type": "search_document", **_embedding_parameters(request)}
    renamed = {"output_dimension" if key == "dimensions" else key: value for key, value in parameters.items()}
    return with_parameters({"texts": list(request.inputs)}, renamed)


def _embedding_parameters(request: ModelRequest) -> _Body:
    """Return the parameters without `encoding_format`, which has one value here."""
    parameters = _given(request)
    encoding = parameters.pop("encoding_format", "float")
    if encoding != "float":
        raise BadProviderRequest(f'the parameter "encoding_format" is "{encoding}" and can only be "float" on Bedrock')
    return parameters


# ---------------------------------------------------------------- completions


def _titan_text(model: str, request: ModelRequest) -> _Body:
    names = {
        **dict.fromkeys(_LIMITS, "maxTokenCount"),
        "temperature": "temperature",
        "top_p": "topP",
        "stop": "stopSequences",
    }
    known, others = _renamed(request, names)
    _refuse(others, "Titan's text models")
    config = {"textGenerationConfig": known} if known else {}
    return {"inputText": request.inputs[0], **config}


def _ai21_text(model: str, request: ModelRequest) -> _Body:
    """Return a completion of Jurassic-2, or a chat of one message for Jamba, which has no other."""
    if ".j2" not in model:
        return _openai_chat(model, _as_chat(request))
    names = {
        **dict.fromkeys(_LIMITS, "maxTokens"),
        "temperature": "temperature",
        "top_p": "topP",
        "stop": "stopSequences",
        "n": "numResults",
    }
    known, others = _renamed(request, names)
    return with_parameters({"prompt": request.inputs[0], **known}, others)


def _cohere_text(model: str, request: ModelRequest) -> _Body:
    names = {
        **dict.fromkeys(_LIMITS, "max_tokens"),
        "top_p": "p",
        "top_k": "k",
        "stop": "stop_sequences",
    }
    known, others = _renamed(request, names)
    field = "message" if "command-r" in model else "prompt"
    return with_parameters({field: request.inputs[0], **known}, others)


def _anthropic_text(model: str, request: ModelRequest) -> _Body:
    """Return a text completion for Claude 2 and older, a chat of one message for those since, which have no other."""
    if not any(name in model for name in ("claude-v2", "claude-instant", "claude-2")):
        return _anthropic_chat(model, _as_chat(request))
    names = {**dict.fromkeys(_LIMITS, "max_tokens_to_sample"), "stop": "stop_sequences"}
    known, others = _renamed(request, names)
    prompt = request.inputs[0]
    framed = prompt if prompt.startswith("\n\nHuman:") else f"\n\nHuman: {prompt}\n\nAssistant:"
    body = {"prompt": framed, "max_tokens_to_sample": _DEFAULT_MAX_TOKENS, **known}
    return with_parameters({"anthropic_version": ANTHROPIC_VERSION, **body}, others)


def _as_chat(request: ModelRequest) -> ModelRequest:
    message = {"role": "user", "content": request.inputs[0]}
    return ModelRequest(request.task, request.parameters, messages=(message,), response_format=request.response_format)


# ---------------------------------------------------------------- chat


def _anthropic_chat(model: str, request: ModelRequest) -> _Body:
    body = {"anthropic_version": ANTHROPIC_VERSION, **anthropic_body(model, request)}
    del body["model"]  # is in the path
    return body


def _openai_chat(model: str, request: ModelRequest) -> _Body:
    body = {"messages": list(request.messages), **_response_format(request.response_format)}
    return with_parameters(body, _given(request))


def _response_format(wanted: ResponseFormat | None) -> _Body:
    if wanted is None or wanted.kind == "text":
        return {}
    if wanted.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    strict = {} if wanted.strict is None else {"strict": wanted.strict}
    schema = {"name": wanted.name, "schema": wanted.schema, **strict}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


# ---------------------------------------------------------------- parameters


def _given(request: ModelRequest) -> _Body:
    return {key: value for key, value in request.parameters.items() if value is not None}


def _renamed(request: ModelRequest, names: Mapping[str, str]) -> tuple[_Body, _Body]:
    """Return the parameters that a format has under other names, and those that it has not."""
    known: _Body = {}
    others: _Body = {}
    for key, value in _given(request).items():
        if key in names:
            known[names[key]] = [value] if key == "stop" and isinstance(value, str) else value
        elif not (key == "n" and value == 1):
            others[key] = value
    return known, others


def _refuse(parameters: Mapping[str, Any], whose: str) -> None:
    if parameters:
        raise BadProviderRequest(f'the parameter "{next(iter(parameters))}" has no place with {whose}: remove it')


_Writer = Callable[[str, ModelRequest], _Body]
_EMBEDDINGS: Final[Mapping[str, _Writer]] = {"amazon": _titan_embeddings, "cohere": _cohere_embeddings}
_COMPLETIONS: Final[Mapping[str, _Writer]] = {
    "ai21labs": _ai21_text,
    "amazon": _titan_text,
    "anthropic": _anthropic_text,
    "cohere": _cohere_text,
}
_CHATS: Final[Mapping[str, _Writer]] = {"ai21labs": _openai_chat, "anthropic": _anthropic_chat, "grok": _openai_chat}
"""Chats of others go through Converse."""
