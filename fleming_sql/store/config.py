"""Config tables to one immutable snapshot, read again only when a row has changed."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import duckdb
import orjson

from fleming_sql.store.alerts import read_alerts
from fleming_sql.store.guardrails import GuardrailTables, Macros, read_guardrails, read_macros
from fleming_sql.store.rules import read_rules
from fleming_sql.store.settings import read_settings
from fleming_sql.types import CUSTOM, Credential, Endpoint, ServedEntity, Settings, Snapshot, Task

_TABLES: Final = (
    "endpoints",
    "served_entities",
    "credentials",
    "principals",
    "group_members",
    "permissions",
    "rate_limits",
    "model_prices",
    "entity_prices",
    "budgets",
    "alerts",
    "settings",
    "guardrails",
    "pii_entities",
)
# One statement, because each costs its own 0.2 ms; a row's hash covers all its columns, and rows may stand twice.
_FINGERPRINT: Final = " union all ".join(
    f"select '{table}', sum(hash(t)::hugeint), count(*) from {table} as t"  # noqa: S608  own names
    for table in _TABLES
)
# DuckDB's optimizer takes 0.5 ms of 1.3 ms for the fingerprint and finds nothing. The pragmas hold for a cursor.
_PLAIN: Final = "pragma disable_optimizer"
_OPTIMIZED: Final = "pragma enable_optimizer"
_ENDPOINT_COLUMNS: Final = (
    "name, task, enabled, payload_logging, usage_tracking, cache_ttl_seconds, cache_scope, max_concurrency, "
    "timeout_ms, connect_timeout_ms, max_retries, max_response_bytes, max_logged_bytes, log_original, "
    "default_parameters, fallback_enabled, fallback_on, retry_on_timeout, attempt_timeout_ms, hedge_after_ms, "
    "hedge_percentile, routing, sticky_key, adaptive_concurrency, breaker_failure_share, breaker_min_calls, "
    "breaker_window_ms, breaker_open_ms"
)
_ENTITY_COLUMNS: Final = (
    "endpoint, name, provider, model, base_url, credential, traffic_percentage, position, parameters, provider_config"
)
# How calls are made, not what is asked of whom: a job that is resumed with fewer requests at once or a longer time-out
# must find the answers that it has paid for.
_OPERATIONAL: Final = frozenset(
    {
        "enabled", "payload_logging", "usage_tracking", "cache_ttl_seconds", "cache_scope", "max_concurrency",
        "timeout_ms", "connect_timeout_ms", "max_retries", "max_response_bytes", "max_logged_bytes", "retry_on_timeout",
        "attempt_timeout_ms", "hedge_after_ms", "hedge_percentile", "adaptive_concurrency", "breaker_failure_share",
        "breaker_min_calls", "breaker_window_ms", "breaker_open_ms", "problems", "version",
    }
)  # fmt: skip
_PROBLEMS: Final = """
with stopped as (
    select unnest(stops) as endpoint, table_name, row_key, column_name, problem, remedy from {found}
)
select
    endpoint,
    problem || ': ' || remedy || ' (table fleming.' || table_name || ', row ' || row_key
        || coalesce(', column ' || column_name, '') || ')'
from stopped
order by endpoint, table_name, row_key, column_name nulls first
"""
# In two parts: a store without a guardrail need not be asked for the second.
_GENERAL_PROBLEMS: Final = _PROBLEMS.format(found="__problems_besides_guardrails()")
_GUARDRAIL_PROBLEMS: Final = _PROBLEMS.format(found="__problems_about_guardrails(?::varchar)")
_VERSIONS: Final = """
select endpoint_name, endpoint_config_version, config_fingerprint, served_entity_name, served_entity_id
from serving.served_entities
where endpoint_delete_time is null
qualify endpoint_config_version = max(endpoint_config_version) over (partition by endpoint_name)
"""
_LAST_VERSIONS: Final = "select endpoint_name, max(endpoint_config_version) from serving.served_entities group by 1"
_NEW_VERSION: Final = """
insert into serving.served_entities (
    served_entity_id, endpoint_name, served_entity_name, entity_type, entity_name, endpoint_config_version, task,
    external_model_config, created_by, change_time, config_fingerprint, account_id, workspace_id, endpoint_id
)
select
    $id, $endpoint, $name, $type, $model, $version, $task, $external, $user, now() at time zone 'UTC', $fingerprint,
    store_id, store_id, md5(store_id || '/' || $endpoint)
from serving.store
"""
_MARK_DELETED: Final = (
    "update serving.served_entities set endpoint_delete_time = now() at time zone 'UTC' "
    "where endpoint_name = ? and endpoint_delete_time is null"
)


class ConfigReader:
    """Reads the configuration of one store.

    Args:
        cursor: A cursor of its own, whose current catalog is the store.
        user: Recorded as the one who made a version of a served entity known.
        path: The store's file; None for a store in memory.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, user: str, path: str | None) -> None:
        self._path = None if path is None else Path(path).resolve()
        self._files_seen: tuple[int, ...] | None = None
        self._cursor = cursor
        self._ask_fingerprint = cursor.extract_statements(_FINGERPRINT)[0]  # parsed once
        cursor.execute(_PLAIN)
        self._user = user
        self._lock = threading.Lock()
        self._fingerprint: tuple[frozenset[tuple[Any, ...]], Macros | None] | None = None
        self._macros: Macros | None = None
        self._snapshot = Snapshot()
        self._unreadable: list[tuple[str, str]] = []

    def snapshot(self) -> Snapshot:
        """Return the configuration as it is committed now; the same object while nothing has changed."""
        with self._lock:
            files = self._files_state()
            if files is None or files != self._files_seen:
                tables = frozenset(self._cursor.execute(self._ask_fingerprint).fetchall())
                # Macros are no rows, and to look for them takes milliseconds: only where a guardrail is in SQL.
                macros = None if self._macros is None else read_macros(self._rows)
                if (tables, macros) != self._fingerprint:
                    self._snapshot = self._read()
                    self._fingerprint = (tables, self._macros)
                self._files_seen = files
            return self._snapshot

    def task(self, endpoint: str) -> Task | None:
        """Return the task of an endpoint as it is committed now, None if it does not exist."""
        if self._path is not None:
            known = self.snapshot().endpoints.get(endpoint)
            return known.task if known else None
        with self._lock:
            rows = self._cursor.execute("select task from endpoints where name = ?", [endpoint]).fetchall()
        return rows[0][0] if rows else None

    def _files_state(self) -> tuple[int, ...] | None:
        """Return what changes with every commit to a store in a file: sizes and times of file and write-ahead log.

        A look at them takes 5 us, asking DuckDB 0.7 ms. Every commit is written to the log before it is visible.
        """
        if self._path is None:
            return None
        try:
            file = self._path.stat()
        except OSError:
            return None
        try:
            log = self._path.with_name(f"{self._path.name}.wal").stat()
        except FileNotFoundError:  # it is removed when it has been worked into the file
            return file.st_size, file.st_mtime_ns
        return file.st_size, file.st_mtime_ns, log.st_size, log.st_mtime_ns

    def _rows(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        return self._cursor.execute(sql, parameters).fetchall()

    def _named(self, columns: str, source: str) -> list[dict[str, Any]]:
        names = columns.split(", ")
        rows = self._rows(f"select {columns} from {source}")  # noqa: S608  own names
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _read(self) -> Snapshot:
        self._unreadable.clear()
        self._cursor.execute(_OPTIMIZED)
        self._cursor.execute("begin")
        try:
            entities = self._entities()
            endpoints = self._with_versions(
                {row["name"]: self._endpoint(row, entities) for row in self._named(_ENDPOINT_COLUMNS, "endpoints")}
            )
            guardrails = read_guardrails(self._rows)
            problems = self._problems(guardrails)
            credentials = self._rows("select name, source, reference from credentials")
            rules = read_rules(self._rows)
            settings = self._placed(read_settings(self._rows))
            alerts = read_alerts(self._rows)
            self._cursor.execute("commit")
        except BaseException:
            self._cursor.execute("rollback")
            raise
        finally:
            self._cursor.execute(_PLAIN)
        # One that is wrong may be right once a macro is there.
        are_wrong = guardrails.macros is not None and any(problems.values())
        self._macros = guardrails.macros if guardrails.uses_macros or are_wrong else None
        return Snapshot(
            {name: replace(e, problems=tuple(problems[name])) for name, e in endpoints.items()},
            {name: Credential(name, source, reference) for name, source, reference in credentials},
            rules.permissions,
            rules.rate_limits,
            rules.principals,
            rules.groups_of,
            rules.prices,
            settings,
            alerts,
            rules.budgets,
            guardrails=guardrails.rules,
        )

    def _placed(self, settings: Settings) -> Settings:
        """Return the settings with a folder that is relative taken from the store's, wherever a process runs."""
        location = settings.delta_location
        if location is None or "://" in location or Path(location).is_absolute():
            return settings
        folder = Path.cwd() if self._path is None else self._path.parent
        return replace(settings, delta_location=str(folder / location))

    def _entities(self) -> Mapping[str, tuple[ServedEntity, ...]]:
        found: defaultdict[str, list[ServedEntity]] = defaultdict(list)
        for row in self._named(_ENTITY_COLUMNS, "served_entities where enabled order by endpoint, position, name"):
            place = f"served_entities, row {row['endpoint']}/{row['name']}"
            row["parameters"] = self._mapping(row, "parameters", row["endpoint"], place)
            row["provider_config"] = self._mapping(row, "provider_config", row["endpoint"], place)
            found[row["endpoint"]].append(ServedEntity(id="", **row))
        return {endpoint: tuple(entities) for endpoint, entities in found.items()}

    def _endpoint(self, row: dict[str, Any], entities: Mapping[str, tuple[ServedEntity, ...]]) -> Endpoint:
        name = row["name"]
        row["fallback_on"] = tuple(row["fallback_on"])
        row["log_original"] = bool(row["log_original"])  # NULL in the rows of a store from before the column
        row["default_parameters"] = self._mapping(row, "default_parameters", name, f"endpoints, row {name}")
        return Endpoint(**row, version=0, entities=entities.get(name, ()), problems=())

    def _mapping(self, row: dict[str, Any], column: str, endpoint: str, place: str) -> Mapping[str, Any]:
        """Return the JSON object in a column.

        Anything else is empty here. A value of another type is a row of config_problems; what DuckDB takes for JSON
        and nobody else (a trailing comma, NaN, hundreds of levels) the view cannot see, so it is taken down here.
        """
        try:
            value = orjson.loads(row[column])
            orjson.dumps(value)
        except (ValueError, TypeError) as error:
            self._unreadable.append(
                (
                    endpoint,
                    f"the column {column} is not valid JSON ({error}): write it without trailing commas, comments, NaN "
                    f"and deep nesting (table fleming.{place}, column {column})",
                )
            )
            return {}
        return value if isinstance(value, dict) else {}

    def _problems(self, guardrails: GuardrailTables) -> defaultdict[str, list[str]]:
        rows = [*self._unreadable, *self._rows(_GENERAL_PROBLEMS)]
        if guardrails.any:
            rows += self._rows(_GUARDRAIL_PROBLEMS, [guardrails.macros_json])
        found: defaultdict[str, list[str]] = defaultdict(list)
        for endpoint, message in rows:
            found[endpoint].append(message)
        return found

    def _with_versions(self, endpoints: dict[str, Endpoint]) -> dict[str, Endpoint]:
        """Give each endpoint its version and each entity its id, recording versions not seen before."""
        known: defaultdict[str, dict[str, str]] = defaultdict(dict)
        fingerprints: dict[str, str] = {}
        for endpoint, _, fingerprint, entity, entity_id in self._rows(_VERSIONS):
            known[endpoint][entity] = entity_id
            fingerprints[endpoint] = fingerprint
        last: dict[str, int] = dict(self._rows(_LAST_VERSIONS))
        for gone in fingerprints.keys() - endpoints.keys():
            self._cursor.execute(_MARK_DELETED, [gone])
        versioned = {}
        for name, endpoint in endpoints.items():
            fingerprint = _fingerprint(endpoint)
            if fingerprints.get(name) == fingerprint:
                ids, version = known[name], last[name]
            else:
                ids, version = {e.name: uuid4().hex for e in endpoint.entities}, last.get(name, 0) + 1
            versioned[name] = replace(
                endpoint,
                version=version,
                entities=tuple(replace(e, id=ids[e.name]) for e in endpoint.entities),
            )
            if ids is not known.get(name):
                self._record(versioned[name], fingerprint)
        return versioned

    def _record(self, endpoint: Endpoint, fingerprint: str) -> None:
        for entity in endpoint.entities:
            self._cursor.execute(
                _NEW_VERSION,
                {
                    "id": entity.id,
                    "endpoint": endpoint.name,
                    "name": entity.name,
                    "type": "CUSTOM_MODEL" if endpoint.task == CUSTOM else "EXTERNAL_MODEL",
                    "model": entity.model,
                    "version": endpoint.version,
                    "task": endpoint.task,
                    "external": {
                        "provider": entity.provider,
                        "base_url": _shown(entity.base_url or entity.provider_config.get("openai_api_base")),
                    },
                    "user": self._user,
                    "fingerprint": fingerprint,
                },
            )


def _shown(address: object) -> str | None:
    """Return an address for the log, less what may be a secret: a refused row's login, and its query."""
    return re.sub(r"(?<=://)[^/\s]*@", "", address).partition("?")[0] if isinstance(address, str) else None


def _fingerprint(endpoint: Endpoint) -> str:
    """Tell versions apart by everything that may change an answer."""
    shaping = {f.name: getattr(endpoint, f.name) for f in fields(endpoint) if f.name not in _OPERATIONAL}
    return hashlib.sha256(orjson.dumps(shaping, option=orjson.OPT_SORT_KEYS)).hexdigest()
