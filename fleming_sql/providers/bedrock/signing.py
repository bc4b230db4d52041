"""What proves who asks: a signature over the request, or an API key of Bedrock.

Signature Version 4 after https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html,
made by botocore; API keys after https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.providers.provider_config import config_problem, config_text
from fleming_sql.types import OutgoingRequest, Secret, ServedEntity

INSTALL: Final = "pip install 'fleming-sql[bedrock]'"
LENT_API_KEY: Final = "lent_api_key"
_LENT: Final = ("lent_access_key_id", "lent_secret_access_key", "lent_session_token")
_OWN: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_SERVICE: Final = "bedrock"


class Keys(NamedTuple):
    """Credentials of AWS, under the names that botocore looks for."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return "Keys(…)"

    def lent(self) -> Mapping[str, Secret]:
        """Return them as the secrets of a grant."""
        return {name: Secret(value) for name, value in zip(_LENT, self, strict=True) if value is not None}


def keys_of(entity: ServedEntity, secrets: Mapping[str, Secret]) -> Keys | None:
    """Return the keys that the entity's provider_config gives; None where it gives none.

    The access key's id is no secret and may stand there as it is.

    Raises:
        BadProviderRequest: One of the two is missing.
    """
    access_key, secret_key, token = (secrets[name].reveal() if name in secrets else None for name in _OWN)
    access_key = access_key or config_text(entity, _OWN[0])
    if access_key is None and secret_key is None and token is None:
        return None
    if access_key is None or secret_key is None:
        missing = _OWN[0] if access_key is None else _OWN[1]
        raise config_problem(entity, missing, "is missing: the two keys go together")
    return Keys(access_key, secret_key, token)


def lent_keys(secrets: Mapping[str, Secret]) -> Keys | None:
    """Return the keys of a grant; None without one."""
    if _LENT[0] not in secrets:
        return None
    access_key, secret_key, token = (secrets[name].reveal() if name in secrets else None for name in _LENT)
    return Keys(access_key or "", secret_key or "", token)


def sign(outgoing: OutgoingRequest, keys: Keys, region: str) -> dict[str, str]:
    """Return the headers that a signed request has beside its own.

    Args:
        outgoing: The request as it will go out. Its own headers are signed; those that the gateway adds are not.
        keys: The credentials.
        region: Where the request goes.

    Raises:
        BadProviderRequest: botocore is not installed.
    """
    try:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError:
        raise BadProviderRequest(f"requests to Amazon Bedrock are signed by botocore: {INSTALL}") from None
    request = AWSRequest(outgoing.method, outgoing.url, dict(outgoing.headers), outgoing.body)
    SigV4Auth(keys, _SERVICE, region).add_auth(request)
    return {name: value for name, value in request.headers.items() if name not in outgoing.headers}
