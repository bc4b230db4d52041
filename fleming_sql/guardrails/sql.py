"""Policies written in SQL: an expression, or a macro of the store, that says ALLOW, DENY, ASK or MASK to an `event`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final, Literal, NamedTuple

from fleming_sql import jsontext
from fleming_sql.guardrails.base import PASS, BadConfig, Finding, PolicyGuardrail, Surroundings, Undecided, Verdict
from fleming_sql.guardrails.documents import Document, Part
from fleming_sql.guardrails.sql_check import check_sql
from fleming_sql.sqltext import quote_identifier
from fleming_sql.types import Behavior, SqlMacro

_EVENT: Final = "event"
_REASON_CHARS: Final = 200

_Result = Literal["ALLOW", "DENY", "ASK", "MASK"]
_ACCEPTED: Final = (
    "a policy returns 'ALLOW', 'DENY' or 'ASK', or a struct such as {'result': 'DENY', 'reason': 'no secrets'} "
    "or {'result': 'MASK', 'message': 'the new text'}"
)


class _Decision(NamedTuple):
    """What a policy said to one text."""

    result: _Result
    reason: str | None = None
    text: str | None = None
    """What is put in the place of a masked one."""


class SqlPolicy(PolicyGuardrail):
    """A SQL policy. What it says is done, whether its row's behavior is block or mask; `log` only writes it down."""

    description = "A SQL expression, or a macro, over an event that returns ALLOW, DENY, ASK or MASK with the new text"
    config_schema: ClassVar[Mapping[str, Any]] = {
        "properties": {
            "expression": {
                "type": "string",
                "minLength": 1,
                "maxLength": 20_000,
                "description": "SQL expression over event, with the fields type (request or response), target, actor, "
                "message, arguments, role, path and context.actor.run_as, context.actor.groups, context.tool.arguments",
            },
            "macro": {
                "type": "string",
                "minLength": 1,
                "description": "Name of a macro in the store's schema main that takes the event",
            },
        },
    }

    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None:
        if len(config) != 1:
            raise BadConfig(
                f"the config of a SQL policy has {'both' if config else 'neither'} of the keys expression and macro",
                'write one of them: {"expression": "CASE WHEN ... END"} or {"macro": "my_policy"}',
            )
        macros = _Macros(surroundings.macros)
        if "macro" in config:
            self.expression, used = _call(str(config["macro"]), macros)
            self._literals: frozenset[str] = frozenset()
        else:
            checked = check_sql(str(config["expression"]), {_EVENT})
            self.expression, self._literals, used = checked.text, checked.literals, checked.functions
        for name in sorted(used):
            macros.use(name)
        self.macros = tuple(macros.used)
        texts: list[tuple[str, tuple[str, ...]]] = [] if "macro" in config else [(self.expression, (_EVENT,))]
        texts += [(macro.definition, macro.parameters) for macro in self.macros]
        self.reads_caller = any(_may_read_caller(text, names) for text, names in texts)
        self._literals |= macros.literals

    def read(self, document: Document, results: Sequence[Any]) -> Verdict:
        """Return the verdict of the strongest that the policy said to any part: DENY, then ASK, then MASK.

        A reason is told where it stands in the policy as a constant, and shortened to 200 characters: one that is
        computed may tell of the text, in whatever disguise.

        Raises:
            Undecided: To some part it said nothing that can be read, and to none DENY or ASK.
        """
        if all(map(_is_plain_allow, results)):
            return PASS
        decisions: list[_Decision] = []
        undecided: Undecided | None = None
        for result, part in zip(results, document.parts, strict=True):
            try:
                decisions.append(_decision(result, part))
            except Undecided as error:
                undecided = undecided or error
                decisions.append(_Decision("ALLOW"))
        for refusal in ("DENY", "ASK"):
            if any(decision.result == refusal for decision in decisions):
                return self._objection(document, decisions, refusal)
        if undecided is not None:
            raise undecided
        masked = _findings(document, decisions, "MASK")
        if not masked:
            return PASS
        texts = [
            part.text if decision.text is None else decision.text
            for part, decision in zip(document.parts, decisions, strict=True)
        ]
        return Verdict("masked by the policy", masked, texts, masks=True)

    def _objection(self, document: Document, decisions: Sequence[_Decision], result: str) -> Verdict:
        told = next(
            (
                reason
                for part, decision in zip(document.parts, decisions, strict=True)
                if decision.result == result and (reason := self._tellable(decision.reason))
            ),
            None,
        )
        if result == "ASK":
            # A statement has nobody to ask, so what needs approval goes no further.
            told = f"needs approval{f': {told}' if told else ''}"
        return Verdict(told or "denied by the policy", _findings(document, decisions, result))

    def _tellable(self, reason: str | None) -> str | None:
        if not reason or not reason.strip():
            return None
        return reason.strip()[:_REASON_CHARS] if reason in self._literals else None


class _Macros:
    """Gathers the macros that a policy uses, each after those that it uses itself.

    Args:
        known: All macros, by name.
    """

    def __init__(self, known: Mapping[str, SqlMacro]) -> None:
        self._known = {name.lower(): macro for name, macro in known.items()}
        self._under_way: list[str] = []
        self._done: set[str] = set()
        self.used: list[SqlMacro] = []
        self.literals: frozenset[str] = frozenset()

    def find(self, name: str) -> SqlMacro | None:
        return self._known.get(name.lower())

    @property
    def named(self) -> str:
        """Those there are, to go on with a sentence."""
        names = ", ".join(sorted(macro.name for macro in self._known.values()))
        return f": {names}" if names else ", where there is none yet"

    def use(self, name: str) -> None:
        """Take in what a name stands for, if it is a macro's.

        Raises:
            BadConfig: It does what a policy may not do, or calls itself.
        """
        macro = self.find(name)
        if macro is None or name.lower() in self._done:
            return
        if name.lower() in self._under_way:
            chain = " -> ".join([*self._under_way, name.lower()])
            raise BadConfig(f"the macro {macro.name} calls itself ({chain})", "take the call of itself out of it")
        self._under_way.append(name.lower())
        try:
            checked = check_sql(macro.definition, macro.parameters)
        except BadConfig as error:
            raise BadConfig(f"in the macro {macro.name}: {error.problem}", error.remedy) from None
        for inner in sorted(checked.functions):
            self.use(inner)
        self._under_way.pop()
        self._done.add(name.lower())
        self.used.append(replace(macro, definition=checked.text))
        self.literals |= checked.literals


def _call(name: str, macros: _Macros) -> tuple[str, frozenset[str]]:
    name = name.removeprefix("fleming.").removeprefix("main.")
    macro = macros.find(name)
    if macro is None:
        raise BadConfig(
            f"there is no macro {name!r} in the store",
            f"create it with CREATE MACRO fleming.{quote_identifier(name)}(event) AS ..., or name one that is there"
            f"{macros.named}",
        )
    if len(macro.parameters) != 1:
        raise BadConfig(
            f"the macro {macro.name} takes {len(macro.parameters)} parameters ({', '.join(macro.parameters)})",
            "a policy's macro takes one, the event",
        )
    return f"{quote_identifier(macro.name)}({_EVENT})", frozenset({macro.name.lower()})


def _may_read_caller(text: str, names: Sequence[str]) -> bool:
    """Return whether an expression may look at who asks: by the field, or because it takes one of its values whole."""
    whole = "|".join(rf'\b{re.escape(name)}\b(?!"?\s*\.)' for name in names)
    return re.search(rf"\b(?:actor|context|groups)\b|{whole}", text, re.IGNORECASE) is not None


def _is_plain_allow(value: Any) -> bool:
    """Return whether a result is an ALLOW in the usual form, as nearly all are."""
    return value == "ALLOW" or (isinstance(value, dict) and value.get("result") == "ALLOW")


def _decision(value: Any, part: Part) -> _Decision:
    if isinstance(value, Undecided):
        raise value
    fields = _fields(value)
    result = str(fields.get("result")).upper()
    reason = fields.get("reason")
    reason = reason if isinstance(reason, str) else None
    if result == "ALLOW":
        return _Decision("ALLOW")
    if result == "DENY":
        return _Decision("DENY", reason)
    if result == "ASK":
        return _Decision("ASK", reason)
    if result != "MASK":
        raise Undecided(f"it returned {_kind(value)}; {_ACCEPTED}")
    text = fields.get("message", fields.get("text"))
    if not isinstance(text, str):
        raise Undecided(f"it returned MASK without the new text; {_ACCEPTED}")
    return _Decision("MASK", reason, text) if text != part.text else _Decision("ALLOW")


def _fields(value: Any) -> Mapping[str, Any]:
    """Return the fields of a result. One of several types comes as text, since DuckDB gives all branches the same."""
    if isinstance(value, str):
        if not value.lstrip().startswith("{"):
            return {"result": value}
        try:
            value = jsontext.loads(value)
        except ValueError:
            return {}
    return {str(name).lower(): inner for name, inner in value.items()} if isinstance(value, Mapping) else {}


def _kind(value: Any) -> str:
    """Return what a result is, without a word of it: it may be the text."""
    return "NULL" if value is None else f"a result that is none of ALLOW, DENY, ASK and MASK ({type(value).__name__})"


def _findings(document: Document, decisions: Sequence[_Decision], result: str) -> list[Finding]:
    return list(_each_finding(document, decisions, result))


def _each_finding(document: Document, decisions: Sequence[_Decision], result: str) -> Iterator[Finding]:
    for number, (part, decision) in enumerate(zip(document.parts, decisions, strict=True)):
        if decision.result == result:
            yield Finding(result, number, 0, len(part.text))
