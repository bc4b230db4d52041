"""Credentials of AWS from where its own tools find them: environment, files, single sign-on, roles.

The order is botocore's: https://docs.aws.amazon.com/boto3/latest/guide/credentials.html.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final

from fleming_sql.providers.base import BadProviderRequest, Grant, LoginRefused
from fleming_sql.providers.bedrock.settings import region_of
from fleming_sql.providers.bedrock.signing import INSTALL, LENT_API_KEY, Keys, keys_of
from fleming_sql.providers.provider_config import config_text, names
from fleming_sql.types import Secret, ServedEntity

_API_KEY_VARIABLE: Final = "AWS_BEARER_TOKEN_BEDROCK"
_CHOSEN: Final = ("aws_access_key_id", "aws_profile", "aws_role_arn", "instance_profile_arn")
"""Keys of the provider_config that say whose credentials to take, so that no API key stands in for them."""
_ROLE_S: Final = 3600
"""How long the credentials of a role hold: the longest that every role may be assumed for."""
_HORIZONS_S: Final = (12 * 3600, 3600, 1800, 900, 600, 300, 60, 0)
_PATIENCE: Final[Mapping[str, Any]] = {
    "connect_timeout": 3,
    "read_timeout": 8,
    "retries": {"total_max_attempts": 2},
}
"""For servers of AWS that lend credentials, in seconds; botocore itself would try five times for 60 seconds each."""
_SESSION_NAME: Final = "fleming-sql"
_NOTHING_FOUND: Final = (
    "no AWS credentials were found, neither in the environment (AWS_ACCESS_KEY_ID) nor in a shared credentials or "
    "config file, by single sign-on, or by the role of this container or machine: set them, or give the served entity "
    "an API key of Bedrock as its credential, or aws_access_key_id and aws_secret_access_key in its provider_config"
)


def find_credentials(entity: ServedEntity, secrets: Mapping[str, Secret]) -> Grant:
    """Return credentials for an entity that names none, or whose own are to be exchanged for those of a role.

    It blocks: files are read, and servers of AWS may be asked.

    Raises:
        LoginRefused: There are none, or they cannot be had.
    """
    api_key = os.environ.get(_API_KEY_VARIABLE)
    if api_key and not any(names(entity, key) for key in _CHOSEN):
        return Grant({LENT_API_KEY: Secret(api_key)})
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session
    except ImportError:
        raise LoginRefused(f"credentials of AWS are found by botocore: {INSTALL}") from None
    try:
        session = Session(profile=config_text(entity, "aws_profile"))
        session.set_default_client_config(Config(**_PATIENCE))
        own = keys_of(entity, secrets)
        keys, expires_in_s = (own, None) if own else _found(session, entity)
        role = config_text(entity, "aws_role_arn")
        return _assume(session, entity, role, keys) if role else Grant(keys.lent(), expires_in_s)
    except (BotoCoreError, ClientError, RuntimeError) as error:  # the last where renewed ones have run out already
        raise LoginRefused(f"the credentials of AWS cannot be had: {error}") from None
    except BadProviderRequest as error:
        raise LoginRefused(str(error)) from None


def _found(session: Any, entity: ServedEntity) -> tuple[Keys, float | None]:
    """Return the credentials that botocore finds, and how long they hold at least."""
    profile = config_text(entity, "instance_profile_arn")
    if profile is None:
        credentials = session.get_credentials()
    elif ":instance-profile/" in profile:
        chain = session.get_component("credential_provider")
        credentials = chain.get_provider("iam-role").load()
    else:
        raise LoginRefused(f'"{profile}" is not the ARN of an instance profile: a role is named in aws_role_arn')
    if credentials is None:
        raise LoginRefused(_NOTHING_FOUND if profile is None else f"this machine lends no credentials of {profile}")
    frozen = credentials.get_frozen_credentials()
    return Keys(frozen.access_key, frozen.secret_key, frozen.token), _holds_s(credentials)


def _holds_s(credentials: Any) -> float | None:
    """Return for how long credentials hold at least, None for those without an end.

    botocore tells only whether there is an end within some time.
    """
    if not hasattr(credentials, "refresh_needed") or not credentials.refresh_needed(refresh_in=10**9):
        return None
    return next((float(s) for s in _HORIZONS_S if not credentials.refresh_needed(refresh_in=s)), 0.0)


def _assume(session: Any, entity: ServedEntity, role: str, keys: Keys) -> Grant:
    client = session.create_client(
        "sts",
        region_name=region_of(entity),
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.token,
    )
    external_id = config_text(entity, "aws_external_id")
    with closing(client):
        answer = client.assume_role(
            RoleArn=role,
            RoleSessionName=_SESSION_NAME,
            DurationSeconds=_ROLE_S,
            **({"ExternalId": external_id} if external_id else {}),
        )
    lent = answer["Credentials"]
    assumed = Keys(lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"])
    return Grant(assumed.lent(), float(_ROLE_S))
