"""What an entity's `parameters` say about its simulation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from fleming_sql.jsontext import loads
from fleming_sql.providers.base import BadProviderRequest

HEADER: Final = "x-simulate"
KINDS: Final = frozenset({"rate_limit", "server_error", "overloaded", "timeout", "cut", "malformed", "refused"})
_DEFAULT_KINDS: Final = ("rate_limit", "server_error", "overloaded")
_NUMBERS: Final[Mapping[str, tuple[float, float]]] = {
    "latency_ms": (0, 3_600_000),
    "error_rate": (0, 1),
    "retry_after_s": (0, 86_400),
    "dimensions": (1, 65_536),
    "seed": (-(2**53), 2**53),
}
_LATENCY: Final[Mapping[str, tuple[float, float]]] = {"median_ms": (0, 3_600_000), "sigma": (0, 5)}


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a simulation, each under its own name in `served_entities.parameters`.

    They may stand at the top of the parameters, or together under the one key `simulate`, which wins.
    `dimensions` and `seed` are request parameters too, where the caller's win over the entity's.

    Example:
        >>> Settings.read({"latency_ms": {"median_ms": 300, "sigma": 0.4}}).sigma
        0.4
    """

    template: str | None = None
    """Answer to every prompt, with {prompt}, {first_words}, {words} (their number) and {model} filled in."""
    latency_ms: float = 0.0
    """How long an answer takes; a number, or {"median_ms": 300, "sigma": 0.4} for a lognormal spread."""
    sigma: float = 0.0
    error_rate: float = 0.0
    """Share of the requests that fail, 0 to 1; a retry of the same prompt is drawn anew."""
    errors: tuple[str, ...] = _DEFAULT_KINDS
    """How they fail, each as likely: `rate_limit` (429), `server_error` (500), `overloaded` (529), `timeout`
    (no answer), `cut` (connection lost in mid-answer), `malformed` (no JSON), `refused` (no server)."""
    error_message: str | None = None
    """Text of the errors that carry one."""
    retry_after_s: float | None = None
    """What `rate_limit` says in its header Retry-After."""
    dimensions: int = 64
    """Length of the embedding vectors."""
    seed: int = 0
    """Another seed gives other answers, other failures and other delays."""

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> Self:
        """Read the settings out of an entity's parameters; other keys are request parameters.

        Raises:
            BadProviderRequest: A setting is unknown, of the wrong type or out of its range.
        """
        given = collect(parameters)
        values = {key: _checked(key, value) for key, value in given.items()}
        latency = values.get("latency_ms")
        if isinstance(latency, dict):
            values["latency_ms"], values["sigma"] = latency["median_ms"], latency.get("sigma", 0.0)
        for key in {"dimensions", "seed"} & values.keys():
            values[key] = int(values[key])
        return cls(**values)

    @classmethod
    def of_header(cls, header: str | None) -> Self:
        """Read what `header` made."""
        return cls.read(loads(header)) if header else cls()


NAMES: Final = frozenset(Settings.__dataclass_fields__) - {"sigma"}


def collect(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among an entity's parameters, those under `simulate` above those at the top.

    Raises:
        BadProviderRequest: `simulate` is not an object, or names an unknown setting.
    """
    given = {key: value for key, value in parameters.items() if key in NAMES and value is not None}
    under = parameters.get("simulate") or {}
    if not isinstance(under, dict):
        raise _problem("simulate", "must be an object")
    for key in under:
        if key not in NAMES:
            raise _problem(key, f"is unknown; known are {', '.join(sorted(NAMES))}")
    return {**given, **{key: value for key, value in under.items() if value is not None}}


def to_header(parameters: Mapping[str, Any]) -> str | None:
    """Return the settings as a header's value; None where all are defaults.

    Raises:
        BadProviderRequest: A setting is unknown, of the wrong type or out of its range.
    """
    Settings.read(parameters)
    given = collect(parameters)
    return json.dumps(given, ensure_ascii=True, separators=(",", ":")) if given else None


def _checked(key: str, value: Any) -> Any:
    if key in ("template", "error_message"):
        if not isinstance(value, str):
            raise _problem(key, "must be a text")
        return value
    if key == "errors":
        kinds = [value] if isinstance(value, str) else value
        if not isinstance(kinds, list) or not kinds or not all(kind in KINDS for kind in kinds):
            raise _problem(key, f"must be a list of {', '.join(sorted(KINDS))}")
        return tuple(kinds)
    if key == "latency_ms" and isinstance(value, dict):
        if "median_ms" not in value or not value.keys() <= _LATENCY.keys():
            raise _problem(key, 'must be a number or {"median_ms": …, "sigma": …}')
        return {name: _number(f"{key}.{name}", inner, _LATENCY[name]) for name, inner in value.items()}
    return _number(key, value, _NUMBERS[key])


def _number(key: str, value: Any, limits: tuple[float, float]) -> Any:
    low, high = limits
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _problem(key, f"must be a number from {low} to {high}")
    return value


def _problem(key: str, problem: str) -> BadProviderRequest:
    return BadProviderRequest(f'setting "{key}" {problem}: table served_entities, column parameters')
