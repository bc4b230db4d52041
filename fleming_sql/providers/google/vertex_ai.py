"""Vertex AI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from fleming_sql.jsontext import dumpb
from fleming_sql.providers.anthropic import Anthropic
from fleming_sql.providers.anthropic_requests import to_body
from fleming_sql.providers.base import Grant, Provider, SendLogin
from fleming_sql.providers.google import embeddings, gemini, logins
from fleming_sql.providers.google.addresses import vertex_url
from fleming_sql.providers.provider_config import config_text, max_inputs_per_request
from fleming_sql.types import CHAT, EMBEDDINGS, Answer, ModelRequest, OutgoingRequest, Secret, ServedEntity

_CLAUDE: Final = "claude"
_CLAUDE_VERSION: Final = "vertex-2023-10-16"
_PREDICTS: Final = "gemini-embedding-001"
"""The last embedding model of Google's that is called gemini and has `predict`."""
_NEWER: Final = ("gemini", "maas")


class VertexAI(Provider):
    """Gemini, Claude and embedding models in a project of Google Cloud.

    Example:
        >>> VertexAI().encode(entity, request).url.removeprefix("https://")
        'us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/publishers/google/models/m:generateContent'
    """

    tasks: ClassVar[frozenset[str]] = frozenset({CHAT, EMBEDDINGS})
    description: ClassVar[str] = "Google Cloud's Vertex AI: Gemini, Claude and embedding models"
    secret_keys: ClassVar[tuple[str, ...]] = ("private_key",)
    config_keys: ClassVar[frozenset[str]] = frozenset(
        {"project_id", "region", "private_key", "quota_project_id", "max_inputs_per_request"}
    )
    price_list: ClassVar[str | None] = "google"
    documentation_url: ClassVar[str | None] = (
        "https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference"
    )

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the form that the entity's model takes.

        Raises:
            BadProviderRequest: The provider_config lacks something, or a message or a parameter has no place.
        """
        quota_project = config_text(entity, "quota_project_id")
        headers = {"x-goog-user-project": quota_project} if quota_project else {}
        url, body = self._method(entity, request)
        return OutgoingRequest(url, dumpb(body), headers)

    def _method(self, entity: ServedEntity, request: ModelRequest) -> tuple[str, Mapping[str, Any]]:
        if request.task == EMBEDDINGS and _has_embed_content(entity.model):
            return vertex_url(entity, "embedContent"), embeddings.to_content(request.inputs, request.parameters)
        if request.task == EMBEDDINGS:
            return vertex_url(entity, "predict"), embeddings.to_instances(request.inputs, request.parameters)
        if request.task == CHAT and entity.model.startswith(_CLAUDE):
            body = to_body(entity.model, request)
            del body["model"]
            return vertex_url(entity, "rawPredict", "anthropic"), {"anthropic_version": _CLAUDE_VERSION, **body}
        return vertex_url(entity, "generateContent"), gemini.chat_body(entity, request)

    def logs_in(self, entity: ServedEntity) -> bool:
        """Return True: all requests carry an OAuth token."""
        return True

    async def log_in(self, entity: ServedEntity, secrets: Mapping[str, Secret], send: SendLogin) -> Grant:
        """Return a token for the service account whose key the entity has, else for what this machine is logged in as.

        Raises:
            LoginRefused: Neither gives one.
        """
        key = self.find_secret(secrets)
        return await (logins.token_of_machine() if key is None else logins.token_of_key(key, send))

    def authorize(
        self, entity: ServedEntity, outgoing: OutgoingRequest, secrets: Mapping[str, Secret]
    ) -> Mapping[str, str]:
        """Return the token as a bearer token; the key itself stays here."""
        token = secrets.get(logins.TOKEN)
        return {"authorization": f"Bearer {token.reveal()}"} if token else {}

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer of Google's or, with `type` message, of Anthropic's.

        Raises:
            BadAnswer: A field is missing or wrong, or the prompt or the answer was blocked.
        """
        if request.task == CHAT and isinstance(payload, dict) and payload.get("type") == "message":
            return Anthropic().decode(request, payload)
        return gemini.decode(request, payload)

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return an answer as Google would have given it, which is read whoever has made the model."""
        return gemini.render(request, answer)

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return `max_inputs_per_request` of the provider_config, else 5, and 1 for embedding models called gemini."""
        if _has_embed_content(entity.model):
            return 1
        usual = 1 if _PREDICTS in entity.model else embeddings.PREDICT_INPUTS
        return max_inputs_per_request(entity, usual)


def _has_embed_content(model: str) -> bool:
    return any(name in model for name in _NEWER) and _PREDICTS not in model
