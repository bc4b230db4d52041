"""A server of one's own in OpenAI's wire format, with its address and its way to authenticate in provider_config.

The keys are those of Databricks' `custom_provider_config`
(https://docs.databricks.com/api/workspace/servingendpoints/create).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from fleming_sql.providers.openai import OpenAI
from fleming_sql.providers.provider_config import address_of, config_problem, names
from fleming_sql.types import ModelRequest, OutgoingRequest, Secret, ServedEntity

_URL: Final = "custom_provider_url"
_BEARER: Final = "bearer_token_auth"
_KEY: Final = "api_key_auth"
_PATHS: Final = ("/chat/completions", "/completions", "/embeddings", "/responses")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NOT_ITS_OWN: Final = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


class Custom(OpenAI):
    """A server at `custom_provider_url`, or base_url; either may end with the path of the task.

    It gets a bearer token, from `bearer_token_auth` or the column credential, or a header of any name, from
    `api_key_auth`. A key never goes into the address, where servers and proxies on the way would write it down.

    Example:
        >>> Custom().encode(entity, request).url
        'https://models.example.com/v1/chat/completions'
    """

    description: ClassVar[str] = "A server of your own in OpenAI's wire format, by URL, with a token or a named header"
    secret_keys: ClassVar[tuple[str, ...]] = (f"{_BEARER}.token",)
    config_keys: ClassVar[frozenset[str]] = frozenset(
        {_URL, _BEARER, _KEY, "max_tokens_parameter", "max_inputs_per_request"}
    )
    public_url: ClassVar[str | None] = None
    credential_variable: ClassVar[str | None] = None
    documentation_url: ClassVar[str | None] = "https://docs.databricks.com/api/workspace/servingendpoints/create"

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the body of the task's path.

        Raises:
            BadProviderRequest: There is no address, or not one way to authenticate.
        """
        _check_auth(entity)
        return super().encode(replace(entity, base_url=self.base_url(entity)), request)

    def authorize(
        self, entity: ServedEntity, outgoing: OutgoingRequest, secrets: Mapping[str, Secret]
    ) -> Mapping[str, str]:
        """Return the header of `api_key_auth`, else a bearer token."""
        key = secrets.get(f"{_KEY}.value")
        if key is not None:
            return {_header_name(entity): key.reveal()}
        return super().authorize(entity, outgoing, secrets)

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return True; for a server that asks nobody for anything there is the provider openai with a base_url."""
        return True

    def base_url(self, entity: ServedEntity) -> str:
        """Return the address that the task's path is appended to.

        Raises:
            BadProviderRequest: There is none.
        """
        url = address_of(entity, _URL)
        if url is None:
            raise config_problem(entity, _URL, "is missing: the address of the server")
        path = next((path for path in _PATHS if url.endswith(path)), "")
        return url.removesuffix(path)


def _check_auth(entity: ServedEntity) -> None:
    ways = [key for key in (_BEARER, _KEY) if names(entity, key)]
    if len(ways) == 2 or (ways and entity.credential):
        raise config_problem(
            entity, ways[-1], "is one way too many to authenticate: keep the column credential, or one of the two keys"
        )
    if _BEARER in ways:
        _secret_in(entity, _BEARER, ("token",))
    if _KEY in ways:
        _secret_in(entity, _KEY, ("value", "key"))
        _header_name(entity)


def _secret_in(entity: ServedEntity, key: str, fields: tuple[str, ...]) -> None:
    """Check an object whose first field is a secret."""
    value: Any = entity.provider_config[key]
    if not isinstance(value, Mapping) or set(value) != set(fields):
        raise config_problem(entity, key, f"must be an object with {' and '.join(sorted(fields))}")
    if not str(value[fields[0]]).startswith("{{secrets/"):
        raise config_problem(entity, f"{key}.{fields[0]}", "must be a reference such as {{secrets/scope/key}}")


def _header_name(entity: ServedEntity) -> str:
    name = entity.provider_config[_KEY]["key"]
    if not isinstance(name, str) or not _HEADER.fullmatch(name) or name.lower() in _NOT_ITS_OWN:
        raise config_problem(entity, f"{_KEY}.key", "must be the name of a header such as x-api-key")
    return name.lower()
