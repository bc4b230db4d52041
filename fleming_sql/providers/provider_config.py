"""Reading the row of a served entity, and saying what is wrong in it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.types import ServedEntity

_COLUMNS: Final = ("base_url", "model")
"""Fields that are columns of their own; all others are keys of provider_config."""
_NO_SEGMENTS: Final = ("", ".", "..")


def config_text(entity: ServedEntity, key: str) -> str | None:
    """Return a text of the entity's provider_config; an empty one is as good as none.

    Raises:
        BadProviderRequest: The value is something else than a text.
    """
    value = entity.provider_config.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise config_problem(entity, key, "must be a text")


def names(entity: ServedEntity, key: str) -> bool:
    """Return whether the provider_config has a value for a key; null is none."""
    return entity.provider_config.get(key) is not None


def max_inputs_per_request(entity: ServedEntity, usual: int) -> int:
    """Return how many embedding inputs the entity's row allows in one request.

    Raises:
        BadProviderRequest: The value is no whole number from 1 up.
    """
    value = entity.provider_config.get("max_inputs_per_request")
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value % 1:
        raise config_problem(entity, "max_inputs_per_request", "must be a whole number from 1 up, such as 16")
    return int(value)


def address_of(entity: ServedEntity, *keys: str) -> str | None:
    """Return where the entity is served: `base_url`, else the first of the keys that has a value; None without any.

    Raises:
        BadProviderRequest: It is no address that a path can be appended to.
    """
    if entity.base_url:
        return checked_address(entity, "base_url", entity.base_url)
    for key in keys:
        if value := config_text(entity, key):
            return checked_address(entity, key, value)
    return None


def checked_address(entity: ServedEntity, field: str, value: str) -> str:
    """Return an address that a path can be appended to, without a slash at its end.

    Args:
        entity: For the error.
        field: The column, or the key of provider_config, that holds it.
        value: The address.

    Raises:
        BadProviderRequest: It is none. No part that may be a secret is in the message.

    Example:
        >>> checked_address(entity, "base_url", "https://models.example.com/v1/")
        'https://models.example.com/v1'
    """
    parts = split_address(entity, field, value)
    if "?" in value:
        raise field_problem(
            entity,
            field,
            "has a query (what follows the ?): the path of the task is appended to the address, and a key in it would "
            "be written down by servers on the way; leave it out, and name a key in the column credential",
        )
    if "#" in value:
        raise field_problem(entity, field, "has a fragment (what follows the #): leave it out")
    return parts.geturl().rstrip("/")


def split_address(entity: ServedEntity, field: str, value: str) -> SplitResult:
    """Return the parts of an address that has a host, and neither a user name nor a password.

    Raises:
        BadProviderRequest: It is none.
    """
    parts = _parts(value)
    if parts is None:
        raise field_problem(entity, field, "is not an http or https address such as https://models.example.com/v1")
    if "@" in parts.netloc:
        raise field_problem(
            entity, field, "holds a user name or password: leave it out, and name a credential in the column credential"
        )
    return parts


@lru_cache(maxsize=1024)  # an address is the same for thousands of calls
def _parts(address: str) -> SplitResult | None:
    """Return the parts of an address, None where it is none."""
    if not address.isprintable() or any(sign in address for sign in ' \\"<>'):
        return None
    try:
        parts = urlsplit(address)
        # asking for the port checks it
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_one else None


def in_path(entity: ServedEntity, field: str, value: str, *, safe: str = "") -> str:
    """Return a value as a part of a path.

    Args:
        entity: For the error.
        field: The column, or the key of provider_config, that holds it.
        value: The value.
        safe: Signs that stay as they are.

    Raises:
        BadProviderRequest: It would lead to another path: it has an empty segment, or one that is `.` or `..`.

    Example:
        >>> in_path(entity, "model", "my model")
        'my%20model'
    """
    if any(segment in _NO_SEGMENTS for segment in value.split("/")):
        raise field_problem(entity, field, f'is "{value}", and would lead to another path: leave out //, . and ..')
    return quote(value, safe=safe)


def config_problem(entity: ServedEntity, key: str, problem: str) -> BadProviderRequest:
    """Return the error for a key of an entity's provider_config."""
    return BadProviderRequest(
        f'key "{key}" {problem}: {_place(entity, "provider_config")}',
        column="provider_config",
        problem=f'its key "{key}" {problem}',
    )


def secret_missing(entity: ServedEntity, id_key: str, secret_key: str) -> BadProviderRequest:
    """Return the error for an id that logs in with a secret, and has none."""
    return config_problem(
        entity,
        id_key,
        f"needs a secret beside it: name it in the column credential, or as {secret_key} in provider_config",
    )


def field_problem(entity: ServedEntity, field: str, problem: str) -> BadProviderRequest:
    """Return the error for a column of an entity's row, or for a key of its provider_config."""
    if field not in _COLUMNS:
        return config_problem(entity, field, problem)
    return BadProviderRequest(
        f"the {field} {problem}: {_place(entity, field)}", column=field, problem=f"its {field} {problem}"
    )


def _place(entity: ServedEntity, column: str) -> str:
    return f'table served_entities, row "{entity.endpoint}/{entity.name}", column {column}'
