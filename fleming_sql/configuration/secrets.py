"""Finds keys where only their whereabouts belong, by the forms that providers give them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from fleming_sql.configuration.schema import Column, Value
from fleming_sql.credentials import secret_reference

_KEY: Final = re.compile(
    r"""
    \b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}            # OpenAI, Anthropic, OpenRouter, DeepSeek
    | \b(?:gsk|hf|xai|ghp|gho|glpat|r8|nvapi|pplx|tgp_v1|fw|csk)[_-][A-Za-z0-9_-]{20,}
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b               # AWS
    | \bAIza[0-9A-Za-z_-]{30,}                    # Google
    | \bya29\.[0-9A-Za-z_-]{20,}                  # Google, OAuth
    | \bdapi[0-9a-f]{32}                          # Databricks
    | \bxox[abprs]-[0-9A-Za-z-]{10,}              # Slack
    | \beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.  # JSON Web Token
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY
    | \bBearer\ +[A-Za-z0-9._~+/-]{20,}
    """,
    re.VERBOSE,
)
_LOGIN: Final = re.compile(r"^[a-z][a-z0-9+.-]*://[^/\s@]*@", re.IGNORECASE)
_QUERY: Final = re.compile(
    r"""^[a-z][a-z0-9+.-]*://\S*[?&](?:[\w-]*(?:key|token|secret|password|signature)|sig|code)=(?!\{\{)[^&#\s]""",
    re.IGNORECASE,
)
"""An address that carries a key in its query."""
_HEADER: Final = re.compile(r".*(key|token|secret|password|signature|authorization|cookie)", re.IGNORECASE)
"""Names of headers that carry one; those of other settings are narrower, since they are named after many things."""
_SECRET_NAME: Final = re.compile(
    r".*(api_key|access_key|private_key|secret|password|token)(_plaintext)?", re.IGNORECASE
)
"""As `config_problems` has it."""
_IN_HEADERS: Final = "headers."
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_COLUMNS: Final = frozenset({"value", "secret", "key", "api_key", "apikey", "token", "password"})
"""What people call a column of credentials that does not exist, since the value is not stored."""


def looks_like_secret(text: str) -> bool:
    """Return whether a text holds what a provider's key looks like, or an address with one."""
    return any(form.search(text) is not None for form in (_KEY, _LOGIN, _QUERY))


def find_secret(table: str, column: Column, row: dict[str, Value]) -> str | None:
    """Return why the value of a column is taken for a secret in plain text, without it; None where it is not.

    Args:
        table: The row's.
        column: Of that table.
        row: Its values.
    """
    value = row[column.name]
    if table == "credentials" and column.name == "reference":
        return _in_reference(row.get("source"), value)
    for name, text in _texts(column, value):
        if looks_like_secret(text):
            return "it holds what looks like a key or a password"
        if _names_secret(name) and text and secret_reference(text) is None:
            return f'the key "{name.removeprefix(_IN_HEADERS)}" holds a secret in plain text'
    return None


def _names_secret(name: str) -> bool:
    if name.startswith(_IN_HEADERS):
        return _HEADER.fullmatch(name) is not None
    return _SECRET_NAME.fullmatch(name.replace("-", "_")) is not None


def _in_reference(source: Value, reference: Value) -> str | None:
    if not isinstance(reference, str):
        return None
    if looks_like_secret(reference):
        return "it holds what looks like the secret itself"
    if source == "env" and reference.strip() and not _VARIABLE.fullmatch(reference):
        return "it is not the name of an environment variable, and may be the secret itself"
    return None


def _texts(column: Column, value: Value) -> Iterator[tuple[str, str]]:
    """Yield all texts in a cell, with the JSON key that each has or ''."""
    if column.type == "JSON" and isinstance(value, str):
        try:
            yield from _nested("", json.loads(value))
        except (ValueError, RecursionError):
            yield "", value
    elif isinstance(value, list):
        yield from (("", item) for item in value if isinstance(item, str))
    elif isinstance(value, str):
        yield "", value


def _nested(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, list):
        for item in value:
            yield from _nested(name, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _nested(f"{_IN_HEADERS}{key}" if name.lower() == "headers" else key, item)
