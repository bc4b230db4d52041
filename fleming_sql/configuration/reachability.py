"""Whether what the configuration points at is there: secrets where credentials say, servers where addresses say."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import duckdb

from fleming_sql import jsontext
from fleming_sql.credentials import CredentialResolver, credentials_of
from fleming_sql.errors import CredentialError
from fleming_sql.providers import ProviderRegistry
from fleming_sql.transport import HttpRequest, Transport, TransportFailed
from fleming_sql.types import Credential, ModelRequest, ServedEntity, Task

_TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 1 << 20
_ENTITIES: Final = """
select
    e.task,
    s.endpoint,
    s.name,
    s.provider,
    s.model,
    s.base_url,
    s.credential,
    s.traffic_percentage,
    s.position,
    s.parameters::varchar as parameters,
    s.provider_config::varchar as provider_config
from served_entities as s
inner join endpoints as e on e.name = s.endpoint
where e.enabled and s.enabled and s.provider in (select name from providers)
order by s.endpoint, s.position, s.name
"""
_CREDENTIALS: Final = "select name, source, reference from credentials order by name"


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """Whether a secret is where its credential says."""

    name: str
    source: str
    used_by: tuple[str, ...]
    """Served entities, as endpoint/name; those that are switched off are left out."""
    error: str | None
    """Why it cannot be read; None where it can."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AddressCheck:
    """Whether a server answers at an address, asked without a key."""

    address: str
    """Scheme, host and port."""
    used_by: tuple[str, ...]
    status: int | None
    """HTTP status of the answer, whichever it is; None without one."""
    took_ms: float
    error: str | None
    clock_ahead_s: float | None
    """How far this machine's clock is ahead of the server's; None where the server does not say."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def read_served(cursor: duckdb.DuckDBPyConnection) -> list[tuple[Task, ServedEntity]]:
    """Return the entities that are in service, each with its task; a JSON column that is none counts as empty."""
    result = cursor.execute(_ENTITIES)
    names = [column[0] for column in result.description or ()]
    return [_served(dict(zip(names, row, strict=True))) for row in result.fetchall()]


def read_credentials(cursor: duckdb.DuckDBPyConnection) -> list[Credential]:
    """Return the credentials."""
    return [Credential(*row) for row in cursor.execute(_CREDENTIALS).fetchall()]


async def check_credentials(credentials: Sequence[Credential], served: Iterable[ServedEntity]) -> list[CredentialCheck]:
    """Look for each secret, and say nothing of it but whether it is there.

    Args:
        credentials: All that there are.
        served: Who uses them.
    """
    used_by: defaultdict[str, list[str]] = defaultdict(list)
    for entity in served:
        for name in credentials_of(entity):
            used_by[name].append(f"{entity.endpoint}/{entity.name}")
    known = {credential.name: credential for credential in credentials}
    resolver = CredentialResolver(time.monotonic)
    errors = await asyncio.gather(*(_error_of(resolver, credential, known) for credential in credentials))
    return [
        CredentialCheck(credential.name, credential.source, tuple(used_by[credential.name]), error)
        for credential, error in zip(credentials, errors, strict=True)
    ]


async def _error_of(
    resolver: CredentialResolver, credential: Credential, known: Mapping[str, Credential]
) -> str | None:
    try:
        await resolver.resolve(credential.name, known)
    except CredentialError as error:
        return str(error)
    return None


async def check_addresses(served: Iterable[tuple[Task, ServedEntity]], transport: Transport) -> list[AddressCheck]:
    """Ask each server once, all at the same time, without a key; any HTTP answer shows that it is reached.

    Args:
        served: Who is served where. Providers that need no network are left out.
        transport: The way to the network.
    """
    used_by: defaultdict[str, list[str]] = defaultdict(list)
    providers = ProviderRegistry()
    for task, entity in served:
        address = _address(providers, task, entity)
        if address is not None:
            used_by[address].append(f"{entity.endpoint}/{entity.name}")
    return list(await asyncio.gather(*(_ask(address, tuple(names), transport) for address, names in used_by.items())))


def _address(providers: ProviderRegistry, task: Task, entity: ServedEntity) -> str | None:
    """Return scheme, host and port of where an entity is served, None where that cannot be said or is not needed."""
    provider = providers.get(entity.provider)
    if provider.transport(entity) is not None:
        return None
    url = entity.base_url
    if url is None:
        asked = ({"role": "user", "content": "x"},)
        request = ModelRequest(task, {}, messages=asked, inputs=("x",), fields={"inputs": ["x"]})
        try:
            url = provider.encode(entity, request).url
        except Exception:  # noqa: BLE001  what is wrong with the row is a row of config_problems or shows in a call
            return None
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets without their other half, for one: a row of config_problems too
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else None


async def _ask(address: str, used_by: tuple[str, ...], transport: Transport) -> AddressCheck:
    began = time.monotonic()
    request = HttpRequest("GET", f"{address}/", {"user-agent": "fleming-sql"}, b"", _TIMEOUT_S, _MAX_BYTES)
    status, error, ahead_s = None, None, None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reply = await transport.send(request)
        status, ahead_s = reply.status, _clock_ahead_s(reply.headers.get("date"))
    except TimeoutError:
        error = f"no answer within {_TIMEOUT_S:g} s"
    except TransportFailed as failed:
        status = failed.status or None  # one that answers at length answers
        error = None if status else failed.message
    return AddressCheck(address, used_by, status, (time.monotonic() - began) * 1000, error, ahead_s)


def _clock_ahead_s(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        told = parsedate_to_datetime(date)
    except ValueError:
        return None
    return (datetime.now(UTC) - told).total_seconds() if told.tzinfo is not None else None


def _served(row: dict[str, Any]) -> tuple[Task, ServedEntity]:
    task: Task = row.pop("task")
    row["parameters"], row["provider_config"] = _mapping(row["parameters"]), _mapping(row["provider_config"])
    return task, ServedEntity(id="", **row)


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        value = jsontext.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
