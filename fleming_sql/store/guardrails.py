"""The tables of guardrails, as the snapshot holds them.

Rows that config_problems complains of are left out where they cannot be held: the calls that would meet them fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from fleming_sql import jsontext
from fleming_sql.types import Behavior, GuardrailRule, GuardrailRules, Phase, PiiEntity, SqlMacro

Rows = Callable[[str], list[tuple[Any, ...]]]

SQL: Final = "sql"
"""The kind whose config may name macros."""
_PII: Final = "pii"
_RULES: Final = """
select
    e.name as endpoint,
    __guardrail_name(g.name, g.phase, g.kind, g.rank) as guardrail,
    g.phase,
    g.rank,
    g.kind,
    g.behavior,
    g.config::varchar as config,
    case g.on_error when 'allow' then true when 'block' then false else e.guardrails_fail_open end as fails_open,
    g.timeout_ms
from guardrails as g
inner join endpoints as e on g.endpoint is null or g.endpoint = e.name
where g.enabled and g.behavior <> 'none'
order by endpoint, g.phase, g.rank, guardrail
"""
_ENTITIES: Final = "select name, pattern, validator, context_words from pii_entities where enabled order by name"
_MACROS: Final = "select name, parameters, definition from __macros()"
Macros = Mapping[str, SqlMacro]


@dataclass(frozen=True, slots=True)
class GuardrailTables:
    """What the tables of guardrails say."""

    rules: GuardrailRules
    any: bool
    """Whether there is a guardrail, right or wrong, that an endpoint meets."""
    macros: Macros | None
    """All that a SQL policy may use; None where there is no such guardrail, right or wrong."""
    uses_macros: bool
    """Whether one of them may use a macro, so that a change of those is a change of the guardrails."""

    @property
    def macros_json(self) -> str:
        """The macros as `__problems_about_guardrails` takes them."""
        return jsontext.dumps(
            [
                {"name": macro.name, "parameters": macro.parameters, "definition": macro.definition}
                for macro in (self.macros or {}).values()
            ]
        )


def read_guardrails(rows: Rows) -> GuardrailTables:
    """Read the guardrails that are switched on, each with the endpoints that it looks after.

    The order is by phase, input first, then by rank and name. Entities and macros are read where a guardrail of the
    kind that goes by them is there.

    Args:
        rows: Runs a query.
    """
    found = rows(_RULES)
    kinds = {row[4] for row in found}
    macros = read_macros(rows) if SQL in kinds else None
    rules: dict[str, list[GuardrailRule]] = {}
    for endpoint, *columns in found:
        rule = _rule(*columns)
        if rule is not None:
            rules.setdefault(endpoint, []).append(rule)
    return GuardrailTables(
        GuardrailRules(
            {endpoint: tuple(listed) for endpoint, listed in rules.items()},
            tuple(_entity(*row) for row in rows(_ENTITIES)) if _PII in kinds else (),
            macros or {},
        ),
        bool(found),
        macros,
        any(_may_use(macros, row[6]) for row in found if row[4] == SQL),
    )


def read_macros(rows: Rows) -> Macros:
    """Return the macros of the store that are the user's own, by name. It takes milliseconds.

    Args:
        rows: Runs a query.
    """
    return {name: SqlMacro(name, tuple(parameters), definition) for name, parameters, definition in rows(_MACROS)}


def _may_use(macros: Macros | None, config: str) -> bool:
    return '"macro"' in config or any(name in config for name in macros or {})


def _rule(
    name: str, phase: Any, rank: int, kind: str, behavior: Any, config: str, fails_open: bool, timeout_ms: int
) -> GuardrailRule | None:
    if phase not in get_args(Phase) or behavior not in get_args(Behavior) or timeout_ms <= 0:
        return None
    return GuardrailRule(name, phase, rank, kind, behavior, config, fails_open, timeout_ms / 1000)


def _entity(name: str, pattern: str, validator: str | None, context_words: list[str | None]) -> PiiEntity:
    return PiiEntity(name, pattern, validator, tuple(word for word in context_words if word is not None))
