"""What is Azure's own in OpenAI's wire format: addresses by deployment, and tokens of Microsoft Entra.

After https://learn.microsoft.com/azure/ai-foundry/openai/reference and, for service principals,
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow. Azure Government and Azure in
China have other addresses: https://learn.microsoft.com/entra/identity-platform/authentication-national-cloud.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from fleming_sql.providers.base import LoginRefused
from fleming_sql.providers.provider_config import (
    checked_address,
    config_problem,
    config_text,
    in_path,
    names,
    secret_missing,
)
from fleming_sql.types import OutgoingRequest, Secret, ServedEntity

AUTHORITY: Final = "https://login.microsoftonline.com"
SCOPE: Final = "https://cognitiveservices.azure.com/.default"
TOKEN: Final = "microsoft_entra_token"  # noqa: S105  the name under which a grant has it
_API_TYPES: Final = ("openai", "azure", "azuread")
_TENANT: Final = "microsoft_entra_tenant_id"
_CLIENT: Final = "microsoft_entra_client_id"
_SECRET: Final = "microsoft_entra_client_secret"  # noqa: S105  the name of a key
_AUTHORITY: Final = "microsoft_entra_authority"
_SCOPE: Final = "microsoft_entra_scope"
_ENTRA: Final = frozenset({_TENANT, _CLIENT, _SECRET, _AUTHORITY, _SCOPE})
CONFIG_KEYS: Final = _ENTRA | {
    "openai_api_type",
    "openai_api_base",
    "openai_api_version",
    "openai_deployment_name",
}


def api_type(entity: ServedEntity) -> str:
    """Return `openai`, `azure` (with a key) or `azuread` (with a token).

    Raises:
        BadProviderRequest: It is something else.
    """
    value = config_text(entity, "openai_api_type") or "openai"
    if value not in _API_TYPES:
        raise config_problem(entity, "openai_api_type", f'is "{value}" and must be one of {_API_TYPES}')
    return value


def azure_text(entity: ServedEntity, key: str) -> str:
    """Return a text of the provider_config that Azure cannot do without.

    Raises:
        BadProviderRequest: It is missing.
    """
    value = config_text(entity, key)
    if value is None:
        named = entity.provider_config.get("openai_api_type")
        raise config_problem(entity, key, f'is missing, and openai_api_type "{named}" needs it')
    return value


def deployment_url(base: str, entity: ServedEntity, path: str) -> str:
    """Return the address of a task's path under the deployment that the entity names.

    Raises:
        BadProviderRequest: The deployment or the version is missing.
    """
    deployment, version = (azure_text(entity, key) for key in ("openai_deployment_name", "openai_api_version"))
    deployment = in_path(entity, "openai_deployment_name", deployment)
    return f"{base}/openai/deployments/{deployment}{path}?api-version={quote(version)}"


def uses_entra(entity: ServedEntity) -> bool:
    """Return whether the entity is called by a service principal, whose secret is exchanged for a token.

    Raises:
        BadProviderRequest: Its settings are there in part, or openai_api_type is not `azuread`.
    """
    given = sorted(key for key in _ENTRA if names(entity, key)) if entity.provider_config else None
    if not given:
        return False
    if api_type(entity) != "azuread":
        raise config_problem(entity, given[0], 'goes with openai_api_type "azuread"')
    in_path(entity, _TENANT, azure_text(entity, _TENANT))
    azure_text(entity, _CLIENT)
    authority = urlsplit(_authority(entity))
    if authority.scheme != "https" and authority.hostname not in ("localhost", "127.0.0.1"):
        raise config_problem(entity, _AUTHORITY, "must begin with https://, for a secret goes there")
    return True


def token_request(entity: ServedEntity, secrets: Mapping[str, Secret]) -> OutgoingRequest:
    """Return the request that exchanges a service principal's secret for a token.

    Raises:
        LoginRefused: There is no secret.
        BadProviderRequest: Tenant or client are missing.
    """
    tenant, client = (_plain(entity, secrets, key) for key in (_TENANT, _CLIENT))
    secret = secrets.get(_SECRET) or secrets.get("credential")
    if secret is None:
        raise LoginRefused(str(secret_missing(entity, _CLIENT, _SECRET)))
    form = {
        "grant_type": "client_credentials",
        "client_id": client,
        "client_secret": secret.reveal(),
        "scope": config_text(entity, _SCOPE) or SCOPE,
    }
    return OutgoingRequest(
        f"{_authority(entity)}/{in_path(entity, _TENANT, tenant)}/oauth2/v2.0/token",
        urlencode(form).encode(),
        {"content-type": "application/x-www-form-urlencoded"},
    )


def check_login(entity: ServedEntity) -> None:
    """Check that a service principal has a secret.

    Raises:
        BadProviderRequest: It has none, or its settings are wrong.
    """
    if uses_entra(entity) and not entity.credential and not names(entity, _SECRET):
        raise secret_missing(entity, _CLIENT, _SECRET)


def _authority(entity: ServedEntity) -> str:
    return checked_address(entity, _AUTHORITY, config_text(entity, _AUTHORITY) or AUTHORITY)


def _plain(entity: ServedEntity, secrets: Mapping[str, Secret], key: str) -> str:
    """Return an id: it is no secret, but may be kept as one."""
    return secrets[key].reveal() if key in secrets else azure_text(entity, key)
