"""What SQL cannot tell about the rows of the config tables: whether a guardrail or an entity can be made of one.

The function `__fleming_config_check` asks here, from the views of what is wrong with the configuration. It goes by its
arguments alone, so it needs no gateway, and what it says to a row is what the gateway would say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fleming_sql import guardrails, jsontext
from fleming_sql.guardrails import BadConfig, Guardrail, Surroundings, check_pii_entity, make_guardrail
from fleming_sql.guardrails.base import PolicyGuardrail
from fleming_sql.providers import BadProviderRequest, ProviderRegistry
from fleming_sql.providers.provider_config import checked_address
from fleming_sql.store.policy_sandbox import ExpressionFailed, PolicySandbox
from fleming_sql.types import PiiEntity, PolicyEvent, ServedEntity, SqlMacro

_VERDICTS: Final = re.compile(r'VARCHAR|JSON|VARIANT|"?NULL"?|(?:STRUCT|ENUM)\(.*\)', re.DOTALL)
"""Types of what a SQL policy may return."""
_HARMLESS: Final[Mapping[str, Any]] = {"validator": None, "context_words": (), "pattern": "x", "name": "ENTITY"}
"""Values that are right in every row of `pii_entities`, in the order in which the columns are tried."""
_LONGEST: Final = 1000
"""Characters of what is told; a value that is told of may be a list of thousands of words."""


def described(providers: ProviderRegistry) -> dict[str, Sequence[Sequence[object]]]:
    """Return the rows of the tables that say what this version knows, by table."""
    return {
        "providers": providers.describe(),
        "guardrail_kinds": guardrails.describe(),
        "built_in_pii_entities": guardrails.describe_pii_entities(),
    }


class ConfigChecks:
    """Checks the rows that SQL cannot check."""

    def __init__(self) -> None:
        self._sandbox = PolicySandbox()
        self._providers = ProviderRegistry()

    def check(self, subject: str, row: str, surroundings: str | None) -> str | None:
        """Return what is wrong with a row of a config table, None where nothing is. It never raises.

        Args:
            subject: `guardrail`, `pii_entity` or `served_entity`.
            row: JSON object: its `kind`, `behavior` and `config` (as text); all of `types.PiiEntity`; or of an entity
                `task` and what `Provider.check` looks at, `provider_config` as text.
            surroundings: JSON object with what a guardrail's config may refer to: `pii_entities` and `macros`.

        Returns:
            JSON object with `problem` and `remedy`; for either entity the `column` too, NULL where it is not
                one alone.

        Example:
            >>> row = '{"kind": "no such kind", "behavior": "block", "config": "{}"}'
            >>> ConfigChecks().check("guardrail", row, "{}") is None
            True
        """
        try:
            values, known = jsontext.loads(row), jsontext.loads(surroundings or "{}")
            if subject == "served_entity":
                found = self._check_served_entity(values)
            else:
                found = self._check_guardrail(values, known) if subject == "guardrail" else _check_entity(values)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  whatever it is, a panic of native code too, the row cannot be used
            found = {
                "problem": f"it cannot be checked ({type(error).__name__}: {error})",
                "remedy": "change the row, or switch it off with enabled = false",
            }
        return None if found is None else jsontext.dumps({key: _clipped(text) for key, text in found.items()})

    def _check_guardrail(self, row: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any] | None:
        made = _made(row, known)
        if isinstance(made, PolicyGuardrail):
            try:
                returned = self._sandbox.check(made.expression, made.macros)
            except ExpressionFailed as failed:
                remedy = (
                    "change the expression in the column config, or the macros that it uses; the event has the fields "
                    f"{', '.join(PolicyEvent._fields)} and context"
                )
                return {"problem": f"DuckDB does not take the policy ({failed})", "remedy": remedy}
            if not _VERDICTS.fullmatch(returned):
                return {
                    "problem": f"the policy returns {returned}, which is no verdict",
                    "remedy": "have it return 'ALLOW', 'DENY' or 'ASK', or a struct with result, reason and message",
                }
        return made if isinstance(made, dict) else None

    def _check_served_entity(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        entity = _served_entity(row)
        if entity is None:
            return None
        try:
            if entity.base_url is not None:
                checked_address(entity, "base_url", entity.base_url)
            self._providers.get(entity.provider).check(entity, row["task"])
        except BadProviderRequest as error:
            remedy = f"change the column {error.column or 'provider_config'} of the row"
            return {"problem": error.problem, "remedy": remedy, "column": error.column}
        return None


def _served_entity(row: Mapping[str, Any]) -> ServedEntity | None:
    """Return the entity that a row describes, without parameters; None where its provider_config is no object."""
    try:
        config = jsontext.loads(row["provider_config"])
    except ValueError:  # what DuckDB takes for JSON and nobody else: told of when the configuration is read
        return None
    if not isinstance(config, dict):
        return None
    columns = {key: row[key] for key in ("endpoint", "name", "provider", "model", "base_url", "credential")}
    return ServedEntity("", **columns, traffic_percentage=100.0, position=1, parameters={}, provider_config=config)


def _made(row: Mapping[str, Any], known: Mapping[str, Any]) -> Guardrail | dict[str, Any] | None:
    """Return the guardrail that a row describes, or what is wrong with it; None where the view says so."""
    if row["kind"] not in guardrails.KINDS:
        return None
    entities = known.get("pii_entities", ()) if row["kind"] == "pii" else ()
    surroundings = Surroundings(
        _right(map(_entity, entities)),
        {macro["name"]: _macro(macro) for macro in known.get("macros", ())},
    )
    try:
        return make_guardrail(row["kind"], row["behavior"], row["config"], surroundings)
    except BadConfig as error:
        return {"problem": error.problem, "remedy": error.remedy}


def _check_entity(row: Mapping[str, Any]) -> dict[str, Any] | None:
    entity = _entity(row)
    try:
        check_pii_entity(entity)
    except BadConfig as error:
        return {"problem": error.problem, "remedy": error.remedy, "column": _wrong_column(entity)}
    return None


def _clipped(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _is_right(entity: PiiEntity) -> bool:
    try:
        check_pii_entity(entity)
    except BadConfig:
        return False
    return True


def _wrong_column(entity: PiiEntity) -> str | None:
    """Return the column that would have to be another for the row to be right, None where that takes several."""
    return next(
        (column for column, value in _HARMLESS.items() if _is_right(replace(entity, **{column: value}))),
        None,
    )


def _right(entities: Iterable[PiiEntity]) -> tuple[PiiEntity, ...]:
    """Return entities, harmless ones of their names for wrong ones: what is wrong is said of their own rows, once."""
    made = [entity if _is_right(entity) else PiiEntity(entity.name, _HARMLESS["pattern"]) for entity in entities]
    return tuple(filter(_is_right, made))  # less those whose name is wrong


def _entity(row: Mapping[str, Any]) -> PiiEntity:
    words = tuple(word for word in row["context_words"] if word is not None)
    return PiiEntity(row["name"], row["pattern"], row["validator"], words)


def _macro(row: Mapping[str, Any]) -> SqlMacro:
    return SqlMacro(row["name"], tuple(row["parameters"]), row["definition"])
