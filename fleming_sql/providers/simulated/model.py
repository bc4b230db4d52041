"""From a request's body to the body of its answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fleming_sql.jsontext import dumps
from fleming_sql.providers.openai_responses import render_response
from fleming_sql.providers.simulated.chance import number, share
from fleming_sql.providers.simulated.schema import SchemaFiller
from fleming_sql.providers.simulated.settings import Settings
from fleming_sql.providers.simulated.vectors import embed
from fleming_sql.providers.simulated.words import answer_text
from fleming_sql.providers.usage import read_usage
from fleming_sql.types import Answer

_CREATED: Final = 1735689600


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request asks, in the terms that its answer and its failures depend on."""

    kind: str
    """`chat`, `responses`, `completions`, `embeddings` or `invocations`."""
    body: Mapping[str, Any]
    key: str
    """All that was asked, as one text."""
    asked: str
    """The text that an answer speaks of: a chat's last user message."""
    seed: int
    model: str


def read_prompt(path: str, body: Any, settings: Settings) -> Prompt:
    """Read a request.

    Raises:
        ValueError: The path or the body is none of this server's.
    """
    if not isinstance(body, dict):
        raise ValueError("the body is not a JSON object")
    model = str(body.get("model") or "")
    seed = body.get("seed")
    seed = seed if isinstance(seed, int) else settings.seed
    if path.endswith("/chat/completions"):
        return _chat_prompt("chat", body, seed, model)
    if path.endswith("/responses"):
        return _chat_prompt("responses", _as_chat(body), seed, model)
    if path.endswith("/completions"):
        asked = str(body.get("prompt", ""))
        return Prompt("completions", body, asked, asked, seed, model)
    if path.endswith("/embeddings"):
        given = body.get("input")
        inputs = given if isinstance(given, list) else [given]
        return Prompt("embeddings", {**body, "input": inputs}, dumps(inputs), "", seed, model)
    if path.endswith("/invocations"):
        records = body.get("dataframe_records", body.get("inputs"))
        return Prompt("invocations", {**body, "records": records}, dumps(records), "", seed, model)
    raise ValueError(f"there is nothing at {path}")


def answer(prompt: Prompt, settings: Settings) -> dict[str, Any]:
    """Return the body of the answer."""
    name = f"simulated/{prompt.model}" if prompt.model else "simulated"
    if prompt.kind == "chat":
        return _chat(prompt, settings, name)
    if prompt.kind == "responses":
        text, reason = _said(prompt, settings)
        return render_response(Answer(text, read_usage(_usage(prompt.key, text)), name, reason))
    if prompt.kind == "completions":
        text, reason = _limited(prompt, answer_text(settings.template, prompt.model, prompt.asked, prompt.seed))
        choices: list[dict[str, Any]] = [{"index": 0, "text": text, "finish_reason": reason}]
        usage = _usage(prompt.key, text)
        return {"object": "text_completion", "model": name, "choices": choices, "usage": usage}
    if prompt.kind == "embeddings":
        return _embeddings(prompt, settings, name)
    records = prompt.body["records"] or []
    scores = [round(share("prediction", prompt.seed, prompt.model, dumps(item)), 4) for item in records]
    return {"predictions": scores, "model": name}


def _chat_prompt(kind: str, body: Mapping[str, Any], seed: int, model: str) -> Prompt:
    texts = [_text(message) for message in body.get("messages") or ()]
    asked = next((text for role, text in reversed(texts) if role == "user"), "")
    key = asked if len(texts) == 1 else "\n".join(f"{role}: {text}" for role, text in texts)
    return Prompt(kind, body, key, asked, seed, model)


def _as_chat(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request to the Responses API as one for a chat completion, as far as it matters here."""
    wanted = (body.get("text") or {}).get("format") or {}
    return {
        "messages": body.get("input"),
        "response_format": {**wanted, "json_schema": wanted},
        "max_tokens": body.get("max_output_tokens"),
    }


def _chat(prompt: Prompt, settings: Settings, name: str) -> dict[str, Any]:
    text, reason = _said(prompt, settings)
    return {
        "id": "chatcmpl-simulated",
        "object": "chat.completion",
        "created": _CREATED,
        "model": name,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": _usage(prompt.key, text),
    }


def _said(prompt: Prompt, settings: Settings) -> tuple[str, str]:
    """Return what the model says and why it ends there."""
    wanted = prompt.body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = wanted["json_schema"].get("schema") or {}
        key = (prompt.seed, prompt.model, prompt.key, dumps(schema))
        return dumps(SchemaFiller(schema, prompt.asked, number(*key)).fill()), "stop"
    text = answer_text(settings.template, prompt.model, prompt.asked, prompt.seed)
    return (dumps({"answer": text}), "stop") if wanted.get("type") == "json_object" else _limited(prompt, text)


def _embeddings(prompt: Prompt, settings: Settings, name: str) -> dict[str, Any]:
    wanted = prompt.body.get("dimensions")
    dimensions = wanted if isinstance(wanted, int) and wanted > 0 else settings.dimensions
    packed = prompt.body.get("encoding_format") == "base64"
    start = number("embedding", prompt.seed, prompt.model)
    inputs = [str(item) for item in prompt.body["input"]]
    vectors: list[Any] = [embed(text, dimensions, start) for text in inputs]
    if packed:
        vectors = [base64.b64encode(np.array(vector, "<f4").tobytes()).decode() for vector in vectors]
    tokens = sum(map(count_tokens, inputs))
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": item} for index, item in enumerate(vectors)],
        "model": name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def count_tokens(text: str) -> int:
    """Return about how many tokens a text has: four characters each."""
    return (len(text) + 1) // 4


def _limited(prompt: Prompt, text: str) -> tuple[str, str]:
    """Cut an answer at the request's limit on tokens, and return it with its finish reason."""
    limit = prompt.body.get("max_tokens") or prompt.body.get("max_completion_tokens")
    if isinstance(limit, int) and count_tokens(text) > limit:
        return text[: 4 * limit], "length"
    return text, "stop"


def _usage(asked: str, answered: str) -> dict[str, int]:
    prompt_tokens, completion_tokens = count_tokens(asked), count_tokens(answered)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _text(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return role and text of a message; a picture counts as the beginning of its address."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return str(message.get("role", "")), str(content or "")
