"""What a row is called in differences and messages: what `fleming.config_problems` calls it in the column row_key.

The rules are those of the views in `sql/objects`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

_DEFAULT_TIERS: Final = (None, "default", "auto", "standard", "on_demand")


class Label(NamedTuple):
    """The name of a row."""

    text: str
    columns: tuple[str, ...]
    """Those whose values are in it."""


def label_of(table: str, key: tuple[str, ...], row: Mapping[str, Any]) -> Label:
    """Return a row's name.

    Args:
        table: Its table.
        key: What rows of that table are known by; their name, unless the table has a rule of its own here.
        row: Its values in plain form.

    Example:
        >>> label_of("served_entities", ("endpoint", "name"), {"endpoint": "chat", "name": "mini"}).text
        'chat/mini'
    """
    rule = _RULES.get(table)
    return rule(row) if rule is not None else Label(_joined(row, *key), key)


def _joined(row: Mapping[str, Any], *columns: str) -> str:
    return "/".join("-" if row.get(column) is None else str(row[column]) for column in columns)


def _rate_limit(row: Mapping[str, Any]) -> Label:
    metric = "+".join(name for name in ("calls", "tokens") if row.get(name) is not None) or "-"
    text = f"{_joined(row, 'endpoint', 'key', 'principal')}/{metric}/{_joined(row, 'renewal_period')}"
    return Label(text, ("endpoint", "key", "principal", "renewal_period"))


def _guardrail(row: Mapping[str, Any]) -> Label:
    endpoint = "*" if row.get("endpoint") is None else row["endpoint"]
    if row.get("name"):
        return Label(f"{endpoint}/{row['name']}", ("endpoint", "name"))
    return Label(
        f"{endpoint}/{row.get('phase')}-{row.get('kind')}-{row.get('rank')}", ("endpoint", "phase", "kind", "rank")
    )


def _budget(row: Mapping[str, Any]) -> Label:
    if row.get("name"):
        return Label(str(row["name"]), ("name",))
    scope, key, principal, endpoint = (row.get(name) for name in ("scope", "context_key", "principal", "endpoint"))
    text = str(scope)
    text += "" if key is None else f" {key}"
    text += "" if principal is None else f"{' ' if key is None else '='}{principal}"
    text += "" if endpoint is None else f"{' ' if scope == 'endpoint' else ' at '}{endpoint}"
    return Label(f"{text}/{row.get('window')}", ("scope", "context_key", "principal", "endpoint", "window"))


def _model_price(row: Mapping[str, Any]) -> Label:
    tier, lowest = row.get("service_tier"), row.get("from_input_tokens")
    tier = tier.lower() if isinstance(tier, str) else tier
    parts = [_joined(row, "provider", "model")]
    columns = ["provider", "model", "valid_from"]
    if tier not in _DEFAULT_TIERS:
        parts.append(str(tier))
        columns.append("service_tier")
    if lowest:
        parts.append(f"from {lowest}")
        columns.append("from_input_tokens")
    return Label("/".join([*parts, _joined(row, "valid_from")]), tuple(columns))


_RULES: Final[Mapping[str, Callable[[Mapping[str, Any]], Label]]] = {
    "rate_limits": _rate_limit,
    "guardrails": _guardrail,
    "budgets": _budget,
    "model_prices": _model_price,
}
