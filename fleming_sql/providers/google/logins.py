"""OAuth tokens of Google Cloud, for the key of a service account or for what this machine is logged in as.

Sources: https://developers.google.com/identity/protocols/oauth2/service-account#httprest and
https://cloud.google.com/docs/authentication/application-default-credentials
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from fleming_sql import jsontext
from fleming_sql.providers.base import Grant, LoginRefused, SendLogin
from fleming_sql.providers.blocking import in_daemon_thread
from fleming_sql.providers.oauth import read_token
from fleming_sql.types import OutgoingRequest, Secret

TOKEN: Final = "access_token"  # noqa: S105  the name of a field
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""The same whatever the account's token_uri is, as in Google's own libraries."""
_LIFETIME_S: Final = 3600
_EARLIER_S: Final = 10
"""Google refuses what comes from the future, and clocks differ by a little."""
_TIMEOUT_S: Final = 20.0
"""For one answer of a token endpoint; google-auth itself would wait for 120 seconds."""
_FIELDS: Final = ("client_email", "private_key", "token_uri")
_OF_ANOTHER_TIME: Final = "short-lived token"
"""In Google's words for an assertion that has begun too late or ended already."""
_INSTALL: Final = "pip install 'fleming-sql[google]'"


async def token_of_key(key: Secret, send: SendLogin) -> Grant:
    """Exchange the key of a service account for a token.

    Args:
        key: The JSON that Google Cloud gave when the key was made.
        send: The way to the account's `token_uri`.

    Raises:
        LoginRefused: The key is not one, or this machine's clock is off.
    """
    account = _read_key(key)
    form = {"grant_type": _GRANT_TYPE, "assertion": _assertion(account)}
    headers = {"content-type": "application/x-www-form-urlencoded"}
    try:
        granted = await send(OutgoingRequest(account["token_uri"], urlencode(form).encode(), headers))
    except Exception as error:
        if _OF_ANOTHER_TIME in str(error):
            raise LoginRefused(
                "Google takes no token of another time than its own: this machine's clock is off by minutes, set it "
                f"(it says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"
            ) from None
        raise
    return read_token(granted, TOKEN)


def _read_key(key: Secret) -> Mapping[str, Any]:
    try:
        account = jsontext.loads(key.reveal())
    except ValueError:
        account = None
    if not isinstance(account, dict):
        raise LoginRefused(
            "the credential is not JSON, and must be the whole file that Google Cloud gave with the key of the "
            "service account: source file with its path is the easiest (table credentials)"
        )
    kind = account.get("type", "service_account")
    if kind != "service_account":
        raise LoginRefused(
            f'the credential is of type "{kind}" and must be of type "service_account": make a key for a service '
            "account, or leave the credential out to use what this machine is logged in as"
        )
    missing = [field for field in _FIELDS if not isinstance(account.get(field), str)]
    if missing:
        raise LoginRefused(f"the key of the service account lacks {', '.join(missing)}: pass the whole file")
    return account


def _assertion(account: Mapping[str, Any]) -> str:
    """Return the signed claim that stands for the account (RFC 7523)."""
    try:
        from google.auth import crypt, jwt
    except ImportError:
        raise LoginRefused(f"the key of a service account needs google-auth: {_INSTALL}") from None
    try:
        signer = crypt.RSASigner.from_string(account["private_key"], account.get("private_key_id"))  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  whatever it is, its text may hold the key
        raise LoginRefused(
            'the field "private_key" of the service account\'s key is not a PEM of an RSA key: pass the file as it '
            r"came, with \n for the ends of lines"
        ) from None
    begins = int(time.time()) - _EARLIER_S
    claims = {
        "iss": account["client_email"],
        "scope": _SCOPE,
        "aud": _AUDIENCE,
        "iat": begins,
        "exp": begins + _LIFETIME_S,
    }
    return bytes(jwt.encode(signer, claims)).decode()  # type: ignore[no-untyped-call]


async def token_of_machine() -> Grant:
    """Return a token for the application default credentials of this machine.

    Raises:
        LoginRefused: There are none, or they are good for nothing any more.
    """
    return await in_daemon_thread(_token_of_machine)


def _token_of_machine() -> Grant:
    try:
        import google.auth
        from google.auth import exceptions
        from google.auth.transport.requests import Request
    except ImportError:
        raise LoginRefused(f"the credentials of this machine need google-auth and requests: {_INSTALL}") from None
    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        credentials.refresh(partial(Request(), timeout=_TIMEOUT_S))  # type: ignore[no-untyped-call]
    except exceptions.DefaultCredentialsError as error:
        raise LoginRefused(
            "the entity has no credential, and this machine has no application default credentials: run gcloud auth "
            "application-default login, or set GOOGLE_APPLICATION_CREDENTIALS, or name the key of a service account "
            f"in the column credential ({error})"
        ) from None
    except exceptions.GoogleAuthError as error:
        raise LoginRefused(
            f"the application default credentials of this machine give no token: {error.args[0] if error.args else ''}"
        ) from None
    if not credentials.token:
        raise LoginRefused("the application default credentials of this machine give no token")
    expiry = credentials.expiry
    expires_in_s = None if expiry is None else (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
    return Grant({TOKEN: Secret(credentials.token)}, expires_in_s)
