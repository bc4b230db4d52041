"""Google's three ways to ask for embeddings.

Sources: https://ai.google.dev/api/embeddings for the Gemini API;
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api for Vertex AI
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.providers.usage import read_count
from fleming_sql.types import Answer, Usage

GEMINI_INPUTS: Final = 100
"""More in one batch the Gemini API refuses."""
PREDICT_INPUTS: Final = 5
"""That many texts of 2,048 tokens, the most that these models read, stay below the 20,000 that a request may have."""
_RENAMED: Final[Mapping[str, str]] = {
    "dimensions": "outputDimensionality",
    "output_dimensionality": "outputDimensionality",
    "task_type": "taskType",
    "auto_truncate": "autoTruncate",
}
_KNOWN: Final = frozenset({"outputDimensionality", "taskType", "autoTruncate", "title"})
_OF_AN_INSTANCE: Final[Mapping[str, str]] = {"taskType": "task_type", "title": "title"}
_PLAIN: Final = "float"


def to_batch(model: str, texts: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of the Gemini API's batchEmbedContents."""
    settings = _settings(given)
    return {"requests": [{"model": model, "content": _content(text), **settings} for text in texts]}


def to_instances(texts: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of Vertex AI's predict, which is for `text-embedding-…` and `gemini-embedding-001`."""
    settings = _settings(given)
    own = {name: settings.pop(key) for key, name in _OF_AN_INSTANCE.items() if key in settings}
    instances = [{"content": text, **own} for text in texts]
    return {"instances": instances, "parameters": settings} if settings else {"instances": instances}


def to_content(texts: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of Vertex AI's embedContent, which takes one text and is for all later models.

    Raises:
        BadProviderRequest: There are several texts.
    """
    if len(texts) != 1:
        raise BadProviderRequest("this model takes one text in a request")
    settings = _settings(given)
    return {"content": _content(texts[0]), **({"embedContentConfig": settings} if settings else {})}


def _content(text: str) -> dict[str, Any]:
    return {"parts": [{"text": text}]}


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    settings = {}
    for key, value in given.items():
        name = _RENAMED.get(key, key)
        if value is None or (key == "encoding_format" and value == _PLAIN):
            continue
        if name not in _KNOWN:
            raise BadProviderRequest(f'the parameter "{key}" has no place in Google\'s embeddings: remove it')
        settings[name] = value
    return settings


def read_embeddings(payload: Any, inputs: int) -> Answer:
    """Return one vector per input, out of the answer of any of the three.

    Raises:
        BadAnswer: A vector is missing or is not one.
    """
    if not isinstance(payload, dict):
        raise BadAnswer(f"the answer is not an object but {type(payload).__name__}")
    if "predictions" in payload:
        return _read_predictions(payload["predictions"], inputs)
    found = payload.get("embeddings", [payload["embedding"]] if "embedding" in payload else None)
    usage = payload.get("usageMetadata")
    tokens = read_count(usage, "promptTokenCount") if isinstance(usage, dict) else None
    return Answer(_vectors("embeddings", found, inputs), Usage(input_tokens=tokens))


def _read_predictions(predictions: Any, inputs: int) -> Answer:
    if not isinstance(predictions, list) or not all(isinstance(one, dict) for one in predictions):
        raise BadAnswer("predictions is not a list of objects")
    found = [one.get("embeddings") for one in predictions]
    vectors = _vectors("predictions", found, inputs)
    counts = [_count(one) for one in found]
    known = [count for count in counts if count is not None]
    return Answer(vectors, Usage(input_tokens=sum(known) if len(known) == len(counts) else None))


def _count(embedding: Any) -> int | None:
    statistics = embedding.get("statistics")
    counted = statistics.get("token_count") if isinstance(statistics, dict) else None
    # A number with a point in some answers: protobuf's struct has one kind of number.
    return read_count({"count": int(counted) if isinstance(counted, float) else counted}, "count")


def _vectors(name: str, found: Any, inputs: int) -> list[list[float]]:
    if not isinstance(found, list):
        raise BadAnswer(f"{name} is missing or not a list")
    if len(found) != inputs:
        raise BadAnswer(f"{name} has {len(found)} embeddings for {inputs} inputs")
    return [_vector(name, position, one) for position, one in enumerate(found)]


def _vector(name: str, position: int, embedding: Any) -> list[float]:
    values = embedding.get("values") if isinstance(embedding, dict) else None
    if not isinstance(values, list) or not values or not {*map(type, values)} <= {float, int}:
        raise BadAnswer(f"{name}[{position}] has no values that are a list of numbers")
    return values


def render_embeddings(answer: Answer) -> dict[str, Any]:
    """Return vectors as batchEmbedContents would have given them."""
    rendered: dict[str, Any] = {"embeddings": [{"values": vector} for vector in answer.content]}
    tokens = answer.usage.input_tokens
    return rendered if tokens is None else {**rendered, "usageMetadata": {"promptTokenCount": tokens}}
