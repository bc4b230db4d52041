"""What the mock model server receives and answers, in the wire formats that model servers document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fleming_sql.jsontext import dumpb, loads


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived at the server."""

    method: str
    path: str
    """Path and query string."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    at: float
    """When its last byte arrived, in seconds of `time.monotonic`."""

    def json(self) -> Any:
        """Return the body, parsed."""
        return loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server does with one request; by default it answers at once and keeps the connection."""

    status: int = 200
    body: bytes | str | dict[str, Any] | list[Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Wait this long before the answer, or before the connection is cut."""
    cut_after: int | None = None
    """Send the head and this many bytes of the body, then close the connection."""
    hang: bool = False
    """Never answer."""
    drop: bool = False
    """Close the connection in place of an answer."""
    at_end: Callable[[], None] | None = None
    """Called in the server's thread when the request is over: answered, cut off, or left by its client."""

    def delayed(self, seconds: float) -> Reply:
        """Return the same reply, `seconds` later."""
        return replace(self, delay_s=seconds)

    def content(self) -> bytes:
        """Return the whole body."""
        if isinstance(self.body, dict | list):
            return dumpb(self.body)
        return self.body.encode() if isinstance(self.body, str) else bytes(self.body)

    def wire(self) -> bytes:
        """Return the bytes of the answer, cut short where `cut_after` says so."""
        content = self.content()
        headers = {
            "content-type": "application/json" if isinstance(self.body, dict | list) else "text/plain; charset=utf-8",
            "content-length": str(len(content)),
            **{name.lower(): value for name, value in self.headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = f"HTTP/1.1 {self.status} Mock\r\n{head}\r\n".encode("latin-1")
        return start + (content if self.cut_after is None else content[: self.cut_after])


class Constant:
    """One answer for every request, built once and never recorded: the server's fast path for benchmarks.

    `GET /stats` is answered with the server's counters in place of it.

    Args:
        reply: The answer; of its fields beside status, headers and body none counts here.
        delay_s: Draws the delay of each answer, in seconds.
    """

    __slots__ = ("delay_s", "wire")

    def __init__(self, reply: Reply, delay_s: Callable[[], float] | None = None) -> None:
        self.wire = reply.wire()
        self.delay_s = delay_s


def chat_reply(
    text: str | list[Any] | None,
    *,
    model: str = "mock-1",
    prompt_tokens: int = 9,
    completion_tokens: int = 3,
    cached_tokens: int | None = None,
    reasoning_tokens: int | None = None,
    finish_reason: str = "stop",
    refusal: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Return an OpenAI chat completion.

    Args:
        text: The content: a text, a list of typed parts, or None.
        model: Who says it answered.
        prompt_tokens: Counted input.
        completion_tokens: Counted output.
        cached_tokens: Part of the input that came from the prompt cache.
        reasoning_tokens: Part of the output that is not shown.
        finish_reason: Why the model stopped.
        refusal: The text with which the model refuses; goes with `text=None`.
        headers: Further headers.
    """
    message = {"role": "assistant", "content": text} | ({} if refusal is None else {"refusal": refusal})
    usage = _usage(prompt_tokens, completion_tokens)
    if cached_tokens is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached_tokens}
    if reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    body = {
        "id": "chatcmpl-mock0000000000000000000000000001",
        "object": "chat.completion",
        "created": 1735689600,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": usage,
    }
    return Reply(body=body, headers=headers or {})


def completion_reply(text: str, *, model: str = "mock-1", prompt_tokens: int = 9, completion_tokens: int = 3) -> Reply:
    """Return an OpenAI text completion."""
    body = {
        "id": "cmpl-mock0001",
        "object": "text_completion",
        "created": 1735689600,
        "model": model,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(prompt_tokens, completion_tokens),
    }
    return Reply(body=body)


def embeddings_reply(
    vectors: Sequence[Sequence[float] | str], *, model: str = "mock-embed-1", prompt_tokens: int = 9
) -> Reply:
    """Return an OpenAI embeddings answer; a vector is a list of numbers, or base64 text."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return Reply(body={"object": "list", "data": data, "model": model, "usage": usage})


def anthropic_reply(
    content: str | list[dict[str, Any]],
    *,
    model: str = "mock-claude-1",
    input_tokens: int = 9,
    output_tokens: int = 3,
    cache_read: int | None = None,
    cache_creation: int | None = None,
    stop_reason: str = "end_turn",
) -> Reply:
    """Return an Anthropic message; `content` is a text or a list of content blocks."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    usage = {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": cache_creation,
        "cache_read_input_tokens": cache_read,
        "output_tokens": output_tokens,
    }
    body = {
        "id": "msg_mock0001",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }
    return Reply(body=body)


def moderation_reply(*scores: Mapping[str, float], threshold: float = 0.5, model: str = "mock-moderation-1") -> Reply:
    """Return an OpenAI moderation answer.

    Args:
        scores: For each text that was sent, category to score.
        threshold: The score from which a category counts as flagged.
        model: Who says it answered.

    Example:
        >>> moderation_reply({"hate": 0.9}).body["results"][0]["flagged"]
        True
    """
    results = [
        {
            "flagged": any(score >= threshold for score in one.values()),
            "categories": {name: score >= threshold for name, score in one.items()},
            "category_scores": dict(one),
        }
        for one in scores
    ]
    return Reply(body={"id": "modr-mock0001", "model": model, "results": results})


def error_reply(status: int, message: str, *, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an error in OpenAI's shape.

    Example:
        >>> error_reply(429, "slow down", headers={"retry-after": "1"}).status
        429
    """
    error = {"message": message, "type": "mock_error", "param": None, "code": None}
    return Reply(status=status, body={"error": error}, headers=headers or {})


def echo_chat(received: Received) -> Reply:
    """Answer a chat request with `echo: ` and the last user message's text."""
    users = [message for message in received.json()["messages"] if message["role"] == "user"]
    content = users[-1]["content"] if users else ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    return chat_reply(f"echo: {content}")


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
