"""OpenAI's wire format: OpenAI itself, Azure OpenAI and the many servers that speak the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from fleming_sql.jsontext import dumpb
from fleming_sql.providers.azure import (
    CONFIG_KEYS,
    TOKEN,
    api_type,
    azure_text,
    check_login,
    deployment_url,
    token_request,
    uses_entra,
)
from fleming_sql.providers.base import BadAnswer, BadProviderRequest, Grant, Provider, SendLogin, with_parameters
from fleming_sql.providers.oauth import read_token
from fleming_sql.providers.openai_answers import read_chat, read_completion, read_embeddings
from fleming_sql.providers.openai_requests import request_body
from fleming_sql.providers.openai_responses import read_response, render_response, responses_body
from fleming_sql.providers.provider_config import address_of, config_problem, config_text, max_inputs_per_request
from fleming_sql.providers.usage import read_usage
from fleming_sql.types import (
    AGENT_CHAT,
    AGENT_RESPONSES,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    Answer,
    ModelRequest,
    OutgoingRequest,
    Secret,
    ServedEntity,
    Task,
)

BASE_URL: Final = "https://api.openai.com/v1"
MAX_INPUTS: Final = 256
_PATHS: Final[Mapping[str, str]] = {
    CHAT: "/chat/completions",
    AGENT_CHAT: "/chat/completions",
    COMPLETIONS: "/completions",
    EMBEDDINGS: "/embeddings",
    RESPONSES: "/responses",
    AGENT_RESPONSES: "/responses",
}
_RESPONSES: Final = frozenset({RESPONSES, AGENT_RESPONSES})
_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_REFUSE_MAX_TOKENS: Final = ("o1", "o3", "o4", "gpt-5")
"""Beginnings of the names of OpenAI models that refuse max_tokens and take max_completion_tokens."""


class OpenAI(Provider):
    """Any server with OpenAI's `/chat/completions`, `/completions`, `/embeddings` or `/responses`.

    Example:
        >>> OpenAI().encode(entity, request).url
        'https://api.openai.com/v1/chat/completions'
    """

    tasks: ClassVar[frozenset[str]] = frozenset(_PATHS)
    description: ClassVar[str] = "OpenAI, Azure OpenAI and any server that speaks OpenAI's wire format"
    secret_keys: ClassVar[tuple[str, ...]] = ("openai_api_key",)
    config_keys: ClassVar[frozenset[str]] = CONFIG_KEYS | {
        "openai_api_key",
        "openai_organization",
        "max_tokens_parameter",
        "max_inputs_per_request",
    }
    public_url: ClassVar[str | None] = BASE_URL
    credential_variable: ClassVar[str | None] = "OPENAI_API_KEY"
    documentation_url: ClassVar[str | None] = "https://platform.openai.com/docs/api-reference"

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the body of the task's path.

        Raises:
            BadProviderRequest: The provider_config cannot work, or a parameter has no place.
        """
        model = _model(entity, request.task)
        if request.task in _RESPONSES:
            body = {**model, **responses_body(request)}
            if api_type(entity) != "openai" or _is_openai(entity):
                body.setdefault("store", False)  # they would keep it for 30 days; what is kept is the gateway's to say
        else:
            body = with_parameters({**model, **request_body(request)}, _parameters(entity, request.parameters))
        organization = config_text(entity, "openai_organization")
        headers = {"openai-organization": organization} if organization else {}
        return OutgoingRequest(self._url(entity, request.task), dumpb(body), headers)

    def check(self, entity: ServedEntity, task: Task) -> None:
        """Check the row.

        Raises:
            BadProviderRequest: It can never work.
        """
        super().check(entity, task)
        check_login(entity)

    def authorize(
        self, entity: ServedEntity, outgoing: OutgoingRequest, secrets: Mapping[str, Secret]
    ) -> Mapping[str, str]:
        """Return `api-key` for Azure, a bearer token for all others; one that was lent, where there is one."""
        if TOKEN in secrets:
            return {"authorization": f"Bearer {secrets[TOKEN].reveal()}"}
        secret = self.find_secret(secrets)
        if secret is not None and api_type(entity) == "azure":
            return {"api-key": secret.reveal()}
        return super().authorize(entity, outgoing, secrets)

    def logs_in(self, entity: ServedEntity) -> bool:
        """Return whether the entity is called by a service principal of Microsoft Entra."""
        return uses_entra(entity)

    async def log_in(self, entity: ServedEntity, secrets: Mapping[str, Secret], send: SendLogin) -> Grant:
        """Exchange the service principal's secret for a token, which holds for about an hour.

        Raises:
            LoginRefused: The secret is missing, or the answer has no token.
        """
        return read_token(await send(token_request(entity, secrets)), TOKEN)

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return True for OpenAI itself and for Azure; other servers may ask for none."""
        return entity.provider_config.get("openai_api_type") in ("azure", "azuread") or _is_openai(entity)

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer.

        Raises:
            BadAnswer: A field is missing or wrong, or the model refused.
        """
        if not isinstance(payload, dict):
            raise BadAnswer(f"the answer is not an object but {type(payload).__name__}")
        finish_reason = None
        content: Any
        if request.task == EMBEDDINGS:
            content = read_embeddings(payload, len(request.inputs))
        elif request.task == COMPLETIONS:
            content, finish_reason = read_completion(payload)
        elif request.task in _RESPONSES:
            content, finish_reason = read_response(payload)
        else:
            content, finish_reason = read_chat(payload)
        model = payload.get("model")
        return Answer(
            content,
            read_usage(payload.get("usage"), payload.get("service_tier")),
            model if isinstance(model, str) else None,
            finish_reason,
        )

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return an answer in the form of the task's path."""
        return render_response(answer) if request.task in _RESPONSES else super().render(request, answer)

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return `max_inputs_per_request` of the provider_config where it has one, else 256."""
        return max_inputs_per_request(entity, MAX_INPUTS)

    def base_url(self, entity: ServedEntity) -> str:
        """Return the address that the task's path is appended to."""
        return _base_url(entity)

    def _url(self, entity: ServedEntity, task: str) -> str:
        path = _PATHS.get(task)
        if path is None:
            raise BadProviderRequest(
                f'provider "{entity.provider}" cannot serve the task {task} (table endpoints, column task)'
            )
        base = self.base_url(entity)
        if api_type(entity) == "openai":
            return f"{base}{path}"
        if task in _RESPONSES:
            return f"{base}/openai/v1{path}"
        return deployment_url(base, entity, path)


def _model(entity: ServedEntity, task: str) -> Mapping[str, str]:
    """Return the model as it stands in the body. Azure has it in the path, but for the Responses API."""
    if api_type(entity) == "openai":
        return {"model": entity.model} if entity.model else {}
    return {"model": azure_text(entity, "openai_deployment_name")} if task in _RESPONSES else {}


def _parameters(entity: ServedEntity, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters with the limit on tokens under the name that the server takes."""
    if "max_tokens" not in given and "max_completion_tokens" not in given:
        return given
    wanted = config_text(entity, "max_tokens_parameter")
    if wanted is None and entity.model.startswith(_REFUSE_MAX_TOKENS) and _is_openai(entity):
        wanted = "max_completion_tokens"
    if wanted is None:
        return given
    if wanted not in _LIMITS:
        raise config_problem(entity, "max_tokens_parameter", f'is "{wanted}" and must be one of {_LIMITS}')
    limit = given[wanted] if wanted in given else next(given[name] for name in _LIMITS if name in given)
    return {**{key: value for key, value in given.items() if key not in _LIMITS}, wanted: limit}


def _base_url(entity: ServedEntity) -> str:
    base = address_of(entity, "openai_api_base")
    if base is None and api_type(entity) != "openai":
        base = azure_text(entity, "openai_api_base")
    return base or BASE_URL


def _is_openai(entity: ServedEntity) -> bool:
    return is_openais(_base_url(entity))


@lru_cache(maxsize=1024)
def is_openais(address: str) -> bool:
    """Return whether an address is OpenAI's own, or one of its regions'."""
    host = urlsplit(address).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")
