"""Answers of OAuth token endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleming_sql.providers.base import Grant, LoginRefused
from fleming_sql.types import Secret


def read_token(answer: Any, name: str) -> Grant:
    """Return the access token of an OAuth answer (RFC 6749, section 5.1) as a grant with one secret.

    Args:
        answer: As parsed.
        name: Of the secret in the grant.

    Raises:
        LoginRefused: There is none.
    """
    token = answer.get("access_token") if isinstance(answer, Mapping) else None
    if not isinstance(token, str) or not (token.isascii() and token.isprintable() and token):
        raise LoginRefused("the answer has no access_token")
    expires_in = answer.get("expires_in")
    try:
        return Grant({name: Secret(token)}, None if expires_in is None else max(0.0, float(expires_in)))
    except (TypeError, ValueError):
        raise LoginRefused("expires_in is not a number of seconds") from None
