"""What all rows of one statement's call have in common, worked out once."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.errors import ArgumentError, CallError
from fleming_sql.gateway.fairness import Flow
from fleming_sql.gateway.guards import NO_GUARDS, Guards
from fleming_sql.gateway.trace import Trace
from fleming_sql.policies.access import identify, refuse
from fleming_sql.policies.answers import AnswerChecker
from fleming_sql.policies.limits import Requirement, requirements
from fleming_sql.policies.options import result_type
from fleming_sql.policies.parameters import is_reusable
from fleming_sql.policies.requests import Prompt, read_request
from fleming_sql.types import (
    AGENT_CHAT,
    AGENT_RESPONSES,
    CHAT,
    CUSTOM,
    EMBEDDINGS,
    RESPONSES,
    Caller,
    CallOptions,
    Endpoint,
    Snapshot,
)

_EMBEDDINGS_AT_ONCE: Final = 4096
"""Calls, not requests: many of them share one."""
_CALLERS_KEPT: Final = 1024
_TALK: Final = frozenset({CHAT, RESPONSES, AGENT_CHAT, AGENT_RESPONSES})
"""Tasks whose answers may be asked for in a form."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The SQL statement that a call belongs to."""

    id: str
    caller: Caller
    permit: Callable[[], None]
    """Called before each request is sent; raises CancelledError when the statement sends no more."""
    rest: Callable[[], None]
    """Called when a request is over, answered or not."""
    hold: Callable[[], AbstractContextManager[None]] = nullcontext
    """While it is held, an answer that has come is dealt with to the end, though the statement sends no more."""
    paced: bool = True
    """Whether its calls are many: they go at the pace of the rate limits; a single one takes what room there is."""
    trace: Trace | None = None
    """Takes down what the steps of its call decide; of a statement of one call."""

    @property
    def flow(self) -> Flow:
        """Whose turn its calls take where others wait too."""
        return Flow(self.caller.user, self.id)


@dataclass(frozen=True, slots=True)
class Access:
    """What the rules of an endpoint say to one caller."""

    refusal: str | None
    """Why it may not call."""
    requirements: tuple[Requirement, ...]
    """The rate limits that its calls meet."""
    groups: tuple[str, ...] = ()
    """Those that it is in, by its own word or by the configuration."""


@dataclass(frozen=True, slots=True)
class CallInput:
    """What one row asks."""

    request: str
    """The request as JSON text: a string for a prompt, an object for a STRUCT, an array for a list."""
    file: bytes | None = None
    """A picture that goes with it."""
    usage_context: Mapping[str, str] = field(default_factory=dict)
    """Labels for the usage table; they play no part in the answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An endpoint and the arguments of a call, checked against each other."""

    snapshot: Snapshot
    endpoint_name: str
    endpoint: Endpoint | None
    """None where there is none of that name."""
    options: CallOptions
    checker: AnswerChecker
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The endpoint's defaults with the call's own on top."""
    refusal: tuple[str, str, int, str] | None = None
    """Condition, text, status and code where no call can succeed."""
    reusable: bool = False
    fingerprint: bytes = b""
    """Of everything but the row that an answer depends on."""
    guards: Guards = NO_GUARDS
    """What looks at the requests and the answers."""
    _access: dict[Caller, Access] = field(default_factory=dict, compare=False)

    @property
    def width(self) -> int:
        """How many calls of one statement are worth having under way at once."""
        if self.endpoint is None:
            return 1
        return _EMBEDDINGS_AT_ONCE if self.endpoint.task == EMBEDDINGS else self.endpoint.max_concurrency

    def read(self, asked: CallInput) -> Prompt:
        """Return what a row asks, in the gateway's terms.

        Raises:
            BadRequest: It does not fit the endpoint's task.
        """
        assert self.endpoint is not None  # noqa: S101  a plan without an endpoint refuses
        return read_request(
            self.endpoint.task, asked.request, asked.file, self.parameters, self.options.response_format
        )

    def key(self, asked: CallInput, caller: Caller) -> bytes:
        """Return the request hash: equal for calls that may share an answer."""
        digest = hashlib.blake2b(asked.request.encode(), key=self.fingerprint, digest_size=16)
        if asked.file is not None:
            digest.update(b"\0file\0")
            digest.update(asked.file)
        if self.endpoint is not None and self.endpoint.cache_scope == "user":
            digest.update(b"\0user\0")
            digest.update(caller.user.encode())
        if self.guards.reads_caller:
            digest.update(jsontext.dumpb([caller.user, self.access(caller).groups]))
        return digest.digest()

    def access(self, caller: Caller) -> Access:
        """Return what the endpoint's permissions and rate limits say to a caller."""
        known = self._access.get(caller)
        if known is None:
            if len(self._access) >= _CALLERS_KEPT:
                self._access.clear()
            snapshot, name = self.snapshot, self.endpoint_name
            identity = identify(caller, snapshot.principals, snapshot.groups_of)
            known = self._access[caller] = Access(
                refuse(name, snapshot.permissions.get(name, ()), identity) if self.endpoint else None,
                requirements(snapshot.rate_limits.get(name, ()), identity),
                tuple(sorted(identity.groups)),
            )
        return known

    def refuse(self, caller: Caller, request_id: str, *, is_permitted: bool = False) -> CallError | None:
        """Return the error that every row of this plan gets from a caller, None where calls can be made.

        Args:
            caller: Who calls.
            request_id: Of the call.
            is_permitted: Whether permissions are passed over: a guardrail asks whom its row names.
        """
        refusal = self.refusal  # first: whether a caller may call cannot be said where a row of the rules is wrong
        if refusal is None:
            denied = None if is_permitted else self.access(caller).refusal
            if denied is None:
                return None
            refusal = "PERMISSION_DENIED", denied, 403, "PERMISSION_DENIED"
        condition, text, status, code = refusal
        return CallError(
            condition,
            f"[{condition}] {text} (request id {request_id}, HTTP status {status})",
            status=status,
            code=code,
        )


def make_plan(
    snapshot: Snapshot, endpoint_name: str, options: CallOptions, *, is_list: bool = False, guards: Guards = NO_GUARDS
) -> Plan:
    """Check the arguments of a call against its endpoint.

    Args:
        snapshot: The configuration.
        endpoint_name: As the caller wrote it.
        options: The other arguments.
        is_list: Whether the requests are lists of texts.
        guards: The endpoint's.

    Raises:
        ArgumentError: An argument does not fit the endpoint's task, or is wrong in itself.
    """
    endpoint = snapshot.endpoints.get(endpoint_name)
    kind = result_type(endpoint.task if endpoint else None, options, is_list=is_list)
    typed = options.return_type is not None or kind.duckdb() != "VARCHAR"
    checker = AnswerChecker(options.response_format, kind if typed else None)
    if endpoint is None:
        told = unknown_endpoint(endpoint_name, snapshot.endpoints)
        refusal = "RESOURCE_DOES_NOT_EXIST", told, 404, "RESOURCE_DOES_NOT_EXIST"
        return Plan(snapshot, endpoint_name, None, options, checker, refusal=refusal)
    _check_task(endpoint, options)
    parameters = {**endpoint.default_parameters, **options.parameters}
    return Plan(
        snapshot,
        endpoint_name,
        endpoint,
        options,
        checker,
        parameters=parameters,
        refusal=_refusal(endpoint),
        reusable=options.cache and endpoint.cache_ttl_seconds is not None and _is_reusable(endpoint, parameters),
        fingerprint=_fingerprint(endpoint, options, parameters, guards),
        guards=guards,
    )


def _is_reusable(endpoint: Endpoint, parameters: Mapping[str, Any]) -> bool:
    return all(is_reusable(endpoint.task, {**entity.parameters, **parameters}) for entity in endpoint.entities)


def _fingerprint(endpoint: Endpoint, options: CallOptions, parameters: Mapping[str, Any], guards: Guards) -> bytes:
    ids = [entity.id for entity in endpoint.entities]
    shape = asdict(options.response_format) if options.response_format else None
    text = jsontext.dumpb([endpoint.name, endpoint.version, ids, parameters, shape])
    return hashlib.blake2b(text + guards.fingerprint, digest_size=32).digest()


def _check_task(endpoint: Endpoint, options: CallOptions) -> None:
    if endpoint.task == CUSTOM and options.parameters:
        raise ArgumentError(
            "AI_FUNCTION_INVALID_MODEL_PARAMETERS.UNSUPPORTED_ENDPOINT_TYPE",
            f'modelParameters go to chat, completions and embeddings endpoints; "{endpoint.name}" serves a custom '
            "model, whose inputs go into the request",
        )
    if options.response_format is not None and endpoint.task not in _TALK:
        raise ArgumentError(
            "AI_FUNCTION_UNSUPPORTED_RESPONSE_FORMAT",
            f'responseFormat goes to chat, responses and agent endpoints, and the task of "{endpoint.name}" is '
            f"{endpoint.task}",
        )


def _refusal(endpoint: Endpoint) -> tuple[str, str, int, str] | None:
    if not endpoint.enabled:
        return (
            "PERMISSION_DENIED",
            f'endpoint "{endpoint.name}" is switched off: set the column enabled of its row in fleming.endpoints',
            403,
            "PERMISSION_DENIED",
        )
    if endpoint.problems:
        return "CONFIG_PROBLEM", endpoint.problems[0], 400, "CONFIG_PROBLEM"
    return None


def unknown_endpoint(name: str, known: Iterable[str]) -> str:
    """Return what to say of a name that is no endpoint's."""
    names = sorted(known)
    lowered = {known.lower(): known for known in names}
    near = [lowered[found] for found in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    if near:
        hint = "did you mean " + ", ".join(f'"{one}"' for one in near) + "?"
    elif names:
        hint = "there are: " + ", ".join(f'"{one}"' for one in names[:10]) + (" …" if len(names) > 10 else "")
    else:
        hint = "there are none yet"
    return f'there is no endpoint "{name}" in fleming.endpoints; {hint}'
