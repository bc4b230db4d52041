"""What the row of a Bedrock model says: where it answers, whose model it is and which API it is asked by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.providers.provider_config import address_of, config_problem, config_text, in_path, names
from fleming_sql.types import CHAT, ServedEntity

CONFIG_KEYS: Final = frozenset(
    {
        "aws_region",
        "bedrock_provider",
        "bedrock_api",
        "structured_output",
        "guardrailConfig",
        "performanceConfig",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "aws_profile",
        "aws_role_arn",
        "aws_external_id",
        "instance_profile_arn",
        "uc_service_credential_name",
    }
)
KEYS: Final = ("aws_access_key_id", "aws_secret_access_key")
_FAMILIES: Final = ("ai21labs", "amazon", "anthropic", "cohere", "grok")
"""Databricks' names for whose models those are, which it takes in any case."""
_SOURCES: Final = ("aws_access_key_id", "aws_profile", "instance_profile_arn")
"""Whose credentials to take, one of them; a role may be assumed with any."""
_VENDORS: Final[Mapping[str, str]] = {
    "ai21": "ai21labs",
    "amazon": "amazon",
    "anthropic": "anthropic",
    "cohere": "cohere",
    "xai": "grok",
}
"""What model ids begin with, after the region of an inference profile or the path of an ARN."""
_VENDOR: Final = re.compile(rf"(?:^|[./])({'|'.join(_VENDORS)})\.")
_REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
_MODEL: Final = re.compile(r"[A-Za-z0-9._:/-]+")


def family_of(entity: ServedEntity) -> str | None:
    """Return whose model it is: as `bedrock_provider` says, else as the model's id does, None for all others.

    Example:
        >>> family_of(entity)  # of the model us.anthropic.claude-sonnet-4-5-20250929-v1:0
        'anthropic'
    """
    named = config_text(entity, "bedrock_provider")
    if named is not None:
        if named.lower() not in _FAMILIES:
            raise config_problem(entity, "bedrock_provider", f'is "{named}" and must be one of {_FAMILIES}')
        return named.lower()
    found = _VENDOR.search(entity.model)
    return _VENDORS[found[1]] if found else None


def needed_family_of(entity: ServedEntity) -> str:
    """Return whose model it is, for requests in the model's own format.

    Raises:
        BadProviderRequest: Neither `bedrock_provider` nor the model's id says it.
    """
    family = family_of(entity)
    if family is None:
        raise config_problem(
            entity,
            "bedrock_provider",
            f'is missing, and the model "{entity.model}" does not tell whose it is: set it to one of {_FAMILIES}',
        )
    return family


def uses_converse(entity: ServedEntity, task: str) -> bool:
    """Return whether a task goes through Converse, which is the same for all models, or through InvokeModel."""
    api = config_text(entity, "bedrock_api") or "converse"
    if api not in ("converse", "invoke"):
        raise config_problem(entity, "bedrock_api", f'is "{api}" and must be "converse" or "invoke"')
    return task == CHAT and api == "converse"


def uses_output_format(entity: ServedEntity) -> bool:
    """Return whether a JSON Schema goes to the API's own output format, or becomes a tool that must be called.

    Models of Anthropic and Amazon can be made to call a tool, older ones too; of the others few can, and those that
    answer by a schema have the output format for it.
    """
    wanted = config_text(entity, "structured_output") or "auto"
    if wanted not in ("auto", "tool", "output_format"):
        problem = f'is "{wanted}" and must be "auto", "tool" or "output_format"'
        raise config_problem(entity, "structured_output", problem)
    by_tool = family_of(entity) in ("anthropic", "amazon") or entity.model.startswith("arn:")
    return wanted == "output_format" or (wanted == "auto" and not by_tool)


def url_of(entity: ServedEntity, operation: str) -> str:
    """Return the address of an operation with the entity's model.

    Colons stay as they are and slashes are written %2F: so the path is the same after any HTTP client has put it into
    its normal form, and the signature holds.

    Raises:
        BadProviderRequest: The model is none that Bedrock can have, or the region is missing.

    Example:
        >>> url_of(entity, "converse")
        'https://bedrock-runtime.us-east-1.amazonaws.com/model/amazon.nova-lite-v1:0/converse'
    """
    if not _MODEL.fullmatch(entity.model):
        raise BadProviderRequest(
            f'the model "{entity.model}" is neither a model id, an inference profile nor an ARN of Bedrock: table '
            f'served_entities, row "{entity.endpoint}/{entity.name}", column model',
            column="model",
        )
    base = address_of(entity) or _address(region_of(entity))
    return f"{base}/model/{in_path(entity, 'model', entity.model, safe=':')}/{operation}"


def region_of(entity: ServedEntity) -> str:
    """Return the AWS region.

    Raises:
        BadProviderRequest: There is none, or none that AWS could have.
    """
    region = config_text(entity, "aws_region")
    if region is None:
        raise config_problem(entity, "aws_region", 'is missing: set it to the region of the model, such as "us-east-1"')
    if not _REGION.fullmatch(region):
        raise config_problem(entity, "aws_region", f'is "{region}", which is no region of AWS such as "us-east-1"')
    return region


def _address(region: str) -> str:
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://bedrock-runtime.{region}.{domain}"


def config_object(entity: ServedEntity, key: str, *needed: str) -> Mapping[str, Any]:
    """Return an object of the provider_config; an empty one where it has none.

    Raises:
        BadProviderRequest: The value is no object, or lacks one of the keys that are needed.
    """
    value = entity.provider_config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise config_problem(entity, key, f"must be an object with {', '.join(needed)}")
    missing = [name for name in needed if not isinstance(value.get(name), str)]
    if missing:
        raise config_problem(entity, key, f"lacks {', '.join(missing)}")
    return value


def check_credentials(entity: ServedEntity) -> None:
    """Refuse a row that names nobody's credentials, or those of two.

    Raises:
        BadProviderRequest: It names a service credential of Unity Catalog, or credentials that exclude each other.
    """
    if names(entity, "uc_service_credential_name"):
        raise config_problem(
            entity,
            "uc_service_credential_name",
            "names a service credential of Unity Catalog, which Databricks alone can use: remove it, and give "
            "aws_role_arn, aws_access_key_id with aws_secret_access_key, or nothing for AWS's default credentials",
        )
    if entity.credential and (given := [key for key in (*_SOURCES, "aws_role_arn") if names(entity, key)]):
        raise config_problem(
            entity,
            given[0],
            "is for signed requests, while the column credential is for an API key of Bedrock: clear one of the two",
        )
    sources = [key for key in _SOURCES if names(entity, key)]
    if len(sources) > 1:
        raise config_problem(entity, sources[0], f"cannot go with {sources[1]}: both say whose credentials to take")


def check_signing(entity: ServedEntity) -> None:
    """Refuse a row whose requests can never be signed.

    Raises:
        BadProviderRequest: The region is none, or one of two keys is missing.
    """
    access_key, secret_key = (names(entity, key) for key in KEYS)
    if access_key or names(entity, "aws_region"):
        region_of(entity)
    if access_key != secret_key:
        raise config_problem(entity, KEYS[secret_key is False], "is missing: the two keys go together")
    for key in ("aws_profile", "aws_role_arn", "aws_external_id", "instance_profile_arn"):
        config_text(entity, key)
