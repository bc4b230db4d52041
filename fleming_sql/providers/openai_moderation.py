"""Moderation endpoints: OpenAI's `/moderations` and those of servers that speak the same.

After https://platform.openai.com/docs/api-reference/moderations. They are served as custom models: what `ai_query` is
given is what is judged, and what comes back is the object with `results`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fleming_sql.jsontext import dumpb
from fleming_sql.providers.base import BadAnswer, BadProviderRequest, Provider, find_error_message
from fleming_sql.providers.openai import BASE_URL, is_openais
from fleming_sql.providers.provider_config import address_of, config_text
from fleming_sql.types import CUSTOM, Answer, ModelRequest, OutgoingRequest, ServedEntity, Usage


class OpenAIModeration(Provider):
    """Any server with OpenAI's `/moderations`.

    The request is a text, a list of texts, or a mapping whose only key is `input`, which may also hold OpenAI's typed
    parts, pictures among them. The answer's content is `{"results": […]}`, one result per text; it has no usage.

    Example:
        >>> OpenAIModeration().encode(entity, request).url
        'https://api.openai.com/v1/moderations'
    """

    tasks: ClassVar[frozenset[str]] = frozenset({CUSTOM})
    description: ClassVar[str] = "OpenAI's moderation endpoint and those of servers that speak the same"
    public_url: ClassVar[str | None] = BASE_URL
    credential_variable: ClassVar[str | None] = "OPENAI_API_KEY"
    documentation_url: ClassVar[str | None] = "https://platform.openai.com/docs/api-reference/moderations"
    secret_keys: ClassVar[tuple[str, ...]] = ("openai_api_key",)
    config_keys: ClassVar[frozenset[str]] = frozenset({"openai_api_key", "openai_organization"})

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put what is to be judged into the field `input`.

        Raises:
            BadProviderRequest: It is neither texts nor parts, or a parameter has no place.
        """
        if request.task != CUSTOM:
            raise BadProviderRequest(
                f'provider "{entity.provider}" cannot serve the task {request.task} (table endpoints, column task)'
            )
        body: dict[str, Any] = {"model": entity.model} if entity.model else {}
        body["input"] = _input(request.fields)
        for key, value in request.parameters.items():
            if key in body or key == "model":
                raise BadProviderRequest(f'the parameter "{key}" is set by the gateway: remove it')
            body[key] = value
        organization = config_text(entity, "openai_organization")
        headers = {"openai-organization": organization} if organization else {}
        return OutgoingRequest(f"{_base_url(entity)}/moderations", dumpb(body), headers)

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return True for OpenAI itself; another server may ask for none."""
        return is_openais(_base_url(entity))

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read the results.

        Raises:
            BadAnswer: There are none, or not one for each text.
        """
        if not isinstance(payload, dict):
            raise BadAnswer(f"the answer is not an object but {type(payload).__name__}")
        results = payload.get("results")
        if not isinstance(results, list):
            told = f"; the server says: {find_error_message(payload['error'])}" if payload.get("error") else ""
            raise BadAnswer(f"results is not a list{told}")
        expected = _count(_input(request.fields))
        if len(results) != expected:
            raise BadAnswer(f"results has {len(results)} items for {expected} inputs")
        for position, result in enumerate(results):
            _check(result, f"results[{position}]")
        model = payload.get("model")
        return Answer({"results": results}, Usage(), model if isinstance(model, str) else None)

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return the results with the model that gave them."""
        return {"model": answer.model, **answer.content}


def _base_url(entity: ServedEntity) -> str:
    return address_of(entity) or BASE_URL


def _input(fields: Any) -> Any:
    if isinstance(fields, Mapping):
        given = {key: value for key, value in fields.items() if value is not None}
        if given.keys() != {"input"}:
            raise BadProviderRequest(
                "a moderation endpoint takes a text, a list of texts, or a STRUCT with the field input and no other; "
                f"this request has the fields {', '.join(map(str, given)) or '(none)'}"
            )
        fields = given["input"]
    if isinstance(fields, str) or (isinstance(fields, list) and fields and (_is_texts(fields) or _is_parts(fields))):
        return fields
    raise BadProviderRequest("a moderation endpoint judges a text, a list of texts or a list of typed parts")


def _is_texts(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def _is_parts(items: list[Any]) -> bool:
    return all(isinstance(item, Mapping) and isinstance(item.get("type"), str) for item in items)


def _count(judged: Any) -> int:
    """Return how many results there must be: typed parts are judged as one."""
    return len(judged) if isinstance(judged, list) and _is_texts(judged) else 1


def _check(result: Any, place: str) -> None:
    """Raise BadAnswer unless a result says whether its text is flagged; Mistral's have the categories only."""
    if not isinstance(result, dict):
        raise BadAnswer(f"{place} is not an object")
    flagged, categories = result.get("flagged"), result.get("categories")
    if not isinstance(flagged, bool) and not (flagged is None and isinstance(categories, dict)):
        raise BadAnswer(f"{place}.flagged is not true or false")
    for key in ("categories", "category_scores"):
        if not isinstance(result.get(key, {}), dict | None):
            raise BadAnswer(f"{place}.{key} is not an object")
