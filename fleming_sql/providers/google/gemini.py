"""The Gemini API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from fleming_sql.jsontext import dumpb
from fleming_sql.providers.base import BadProviderRequest, Provider
from fleming_sql.providers.google import addresses, answers, embeddings
from fleming_sql.providers.google.chats import to_contents
from fleming_sql.providers.google.parameters import to_settings
from fleming_sql.providers.provider_config import max_inputs_per_request
from fleming_sql.types import CHAT, EMBEDDINGS, Answer, ModelRequest, OutgoingRequest, Secret, ServedEntity

_BAD_KEY: Final = "API_KEY_INVALID"


class Gemini(Provider):
    """Gemini and Gemma models with a key of Google AI Studio.

    Example:
        >>> Gemini().encode(entity, request).url
        'https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent'
    """

    tasks: ClassVar[frozenset[str]] = frozenset({CHAT, EMBEDDINGS})
    description: ClassVar[str] = "Google's Gemini API, with a key"
    secret_keys: ClassVar[tuple[str, ...]] = ("gemini_api_key",)
    config_keys: ClassVar[frozenset[str]] = frozenset({"gemini_api_key", "max_inputs_per_request"})
    public_url: ClassVar[str | None] = f"{addresses.GEMINI_URL}/v1beta"
    credential_variable: ClassVar[str | None] = "GEMINI_API_KEY"
    price_list: ClassVar[str | None] = "google"
    documentation_url: ClassVar[str | None] = "https://ai.google.dev/api"

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a chat into generateContent, texts into batchEmbedContents.

        Raises:
            BadProviderRequest: A message or a parameter has no place in this API.
        """
        if request.task == EMBEDDINGS:
            body = embeddings.to_batch(addresses.gemini_model(entity), request.inputs, request.parameters)
            return OutgoingRequest(addresses.gemini_url(entity, "batchEmbedContents"), dumpb(body))
        return OutgoingRequest(addresses.gemini_url(entity, "generateContent"), dumpb(chat_body(entity, request)))

    def authorize(
        self, entity: ServedEntity, outgoing: OutgoingRequest, secrets: Mapping[str, Secret]
    ) -> Mapping[str, str]:
        """Return the header `x-goog-api-key`."""
        secret = self.find_secret(secrets)
        return {"x-goog-api-key": secret.reveal()} if secret else {}

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return True for Google itself; another server may ask for none."""
        return entity.base_url is None or entity.base_url.startswith(addresses.GEMINI_URL)

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer.

        Raises:
            BadAnswer: A field is missing or wrong, or the prompt or the answer was blocked.
        """
        return decode(request, payload)

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return an answer as Google would have given it."""
        return render(request, answer)

    def read_status(self, status: int, payload: Any, headers: Mapping[str, str]) -> int:
        """Return 401 for a wrong key, which this API answers with 400, as it does all wrong requests."""
        return 401 if status == 400 and _reason(payload) == _BAD_KEY else status

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return `max_inputs_per_request` of the provider_config where it has one, else 100."""
        return max_inputs_per_request(entity, embeddings.GEMINI_INPUTS)


def chat_body(entity: ServedEntity, request: ModelRequest) -> dict[str, Any]:
    """Return the body of generateContent.

    Raises:
        BadProviderRequest: The task is no chat, or a message or a parameter has no place.
    """
    if request.task != CHAT:
        raise BadProviderRequest(
            f'provider "{entity.provider}" cannot serve the task {request.task} (table endpoints, column task)'
        )
    settings = to_settings(entity.model, request.parameters, request.response_format)
    return {**to_contents(request.messages), **settings}


def decode(request: ModelRequest, payload: Any) -> Answer:
    """Read an answer to a chat or to texts."""
    if request.task == EMBEDDINGS:
        return embeddings.read_embeddings(payload, len(request.inputs))
    return answers.read_chat(payload)


def render(request: ModelRequest, answer: Answer) -> dict[str, Any]:
    """Return what `decode` reads as `answer`."""
    return embeddings.render_embeddings(answer) if request.task == EMBEDDINGS else answers.render_chat(answer)


def _reason(payload: Any) -> Any:
    """Return the reason in the details of an error, which may stand in a list."""
    told = payload[0] if isinstance(payload, list) and payload else payload
    error = told.get("error") if isinstance(told, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    reasons = (one.get("reason") for one in details if isinstance(one, dict)) if isinstance(details, list) else ()
    return next((reason for reason in reasons if reason), None)
