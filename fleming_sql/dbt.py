"""The plugin of dbt-duckdb: AI functions in models, and each call labelled with the node that made it.

dbt runs each node on a thread with a cursor of its own. A SQL function sees neither, only the number of the cursor's
connection, so the plugin remembers which thread a cursor was made for, and, from the event that dbt fires on the
thread before each statement, which node that thread is at.

Example:
    In `profiles.yml`, beside `type: duckdb`::

        plugins:
          - module: fleming_sql.dbt
            config: {gateway: warehouse.fleming.duckdb, user: dbt}
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.events.logging import AdapterLogger
from dbt.adapters.factory import get_adapter_by_type
from dbt_common.events.base_types import EventMsg
from dbt_common.events.contextvars import get_node_info
from dbt_common.events.event_manager_client import get_event_manager
from dbt_common.exceptions import DbtRuntimeError
from dbt_common.invocation import get_invocation_id

from fleming_sql.connection.connect import attach, detach, interrupt
from fleming_sql.connection.labels import UsageContext
from fleming_sql.errors import FlemingError, StoreLocked
from fleming_sql.store.catalog import CATALOG, MEMORY

_MODEL: Final = "model."
_LOG: Final = AdapterLogger("fleming_sql.dbt")
_RETRY_S: Final = 0.2
"""How often a store that another process has open is tried."""
_ACCEPTED: Final[Mapping[str, str]] = {
    "gateway": "the path of the gateway's store, such as warehouse.fleming.duckdb",
    "user": "a name",
    "groups": "a list of names, such as [analysts]",
    "usage_context": "texts by name, such as {team: support}; put numbers into quotes",
    "wait_seconds": "a number of seconds, 0 or more",
}


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """What stands under `config` of the plugin in the profile."""

    gateway: str | None = None
    """The gateway's store; by default the file beside the database, as for `fleming_sql.connect`."""
    user: str | None = None
    """Who asks, in the log and for permissions; by default `FLEMING_USER`, else the operating system's user."""
    groups: list[str] = field(default_factory=list)
    """The groups of that user."""
    usage_context: dict[str, str] = field(default_factory=dict)
    """Labels of all calls, below those that the plugin sets and those of each call."""
    wait_seconds: float = 0.0
    """How long to wait for a store that another process has open."""


def read_config(given: Mapping[str, Any]) -> PluginConfig:
    """Check what the profile says.

    Raises:
        DbtRuntimeError: A key is unknown or has a value of the wrong type; the text says what is accepted.
    """
    known = {item.name for item in fields(PluginConfig)}
    for key, value in given.items():
        if key not in known:
            raise _wrong(f"there is no key {key}; it takes {', '.join(sorted(known))}")
        if not _fits(key, value):
            raise _wrong(f"{key} takes {_ACCEPTED[key]}; it has {_described(value)}")
    return PluginConfig(**{key: value for key, value in given.items() if value is not None})


def _fits(key: str, value: object) -> bool:
    if value is None:
        return True
    if key == "groups":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key == "usage_context":
        return isinstance(value, dict) and all(isinstance(text, str) for text in (*value, *value.values()))
    if key == "wait_seconds":
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    return isinstance(value, str) and value != ""


def _described(value: object) -> str:
    """Say what a value is, without showing it: what stands in the wrong place may be a secret."""
    if value == "":
        return "an empty text"
    if isinstance(value, int | float) and value < 0:
        return "a number below 0"
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    wrong = next((part for part in parts if not isinstance(part, str)), value)
    return f"a value of type {type(wrong).__name__}"


def _wrong(what: str) -> DbtRuntimeError:
    return DbtRuntimeError(f"profiles.yml, config of the plugin fleming_sql.dbt: {what}")


def _not_attached(error: Exception) -> DbtRuntimeError:
    return DbtRuntimeError(f"the plugin fleming_sql.dbt could not attach the gateway: {error}")


def _store_path(gateway: str | None, database: str) -> Path | None:
    """Return where the gateway's store is, None if it is in memory.

    Raises:
        DbtRuntimeError: It is the database itself.
    """
    if gateway == MEMORY or (gateway is None and database == MEMORY):
        return None
    path = Path(database)
    store = path.with_name(f"{path.stem}.{CATALOG}.duckdb") if gateway is None else Path(gateway)
    if store.resolve() == path.resolve():
        raise _wrong(
            f"gateway and path are the same file, {database}: the gateway's store is a file of its own, so that its "
            f"log outlives the models; leave gateway out for {path.stem}.{CATALOG}.duckdb, or name another"
        )
    return store.resolve()


class Plugin(BasePlugin):
    """Gives the DuckDB instance of a dbt run a gateway, as `fleming_sql.attach` does.

    Each call has in its `usage_context` the keys `dbt_project`, `dbt_invocation_id`, `dbt_node` (such as
    `model.shop.tickets`, `test.shop.…`, `operation.shop.…` for hooks of the run, `macro_…` for a run-operation) and,
    if it is made by a model, `dbt_model`.
    """

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Check the configuration; called before the database is opened.

        Raises:
            DbtRuntimeError: It is wrong.
        """
        # dbt-duckdb hands the profile's `settings` and the plugin's `config` over as one.
        own = [each.config or {} for each in self.creds.plugins or [] if each.module == __name__] if self.creds else []
        self._config = read_config(own[0] if own else plugin_config)
        self._store = _store_path(self._config.gateway, self.creds.path if self.creds else MEMORY)
        self._nodes: dict[int, str] = {}

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Attach the gateway to a database just opened.

        Raises:
            DbtRuntimeError: The store cannot be opened.
        """
        # With `keep_open: false` dbt closes the database between nodes, and tells nobody.
        self._connection = conn.cursor()
        is_new = self._store is not None and not self._store.exists()
        self._attach(self._connection, self._config.usage_context, self._config.wait_seconds)
        if is_new:
            _LOG.info(f"the gateway's store {self._store} is new: it has no endpoint and no earlier answer yet")
        weakref.finalize(conn, detach, self._connection).atexit = False  # type: ignore[misc]  # its stub has it not

    def configure_cursor(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Make the functions known on a cursor, and label its calls with what its thread is at."""
        events = get_event_manager()
        if self._on_event not in events.callbacks:  # dbt empties the list between invocations of one process
            events.add_callback(self._on_event)
        thread = threading.get_ident()
        if node := get_node_info().get("unique_id"):  # a model in Python has no event before its statements
            self._nodes[thread] = node
        self._attach(cursor, partial(self._labels, thread))

    def _attach(self, con: duckdb.DuckDBPyConnection, labels: UsageContext, wait_s: float = 0.0) -> None:
        config = self._config
        deadline: float | None = None
        while True:
            try:
                attach(con, config.gateway, config.user, config.groups, usage_context=labels, progress=False)
            except StoreLocked as error:
                if deadline is None and wait_s:
                    _LOG.info(f"waiting up to {wait_s:g} s for the gateway's store: {error}")
                deadline = deadline or time.monotonic() + wait_s
                if time.monotonic() >= deadline:
                    raise _not_attached(error) from error
                time.sleep(_RETRY_S)
            except (FlemingError, duckdb.Error) as error:
                raise _not_attached(error) from error
            else:
                return

    def _on_event(self, event: EventMsg) -> None:
        """Take note of what dbt is about to do."""
        if event.info.name == "SQLQuery":
            self._nodes[threading.get_ident()] = event.data.node_info.unique_id or event.data.conn_name
        elif event.info.name == "LogCancelLine":  # after Ctrl-C, and with --fail-fast
            interrupt(self._connection)

    def _labels(self, thread: int) -> Mapping[str, str]:
        """Return the labels of what a thread of dbt's is at."""
        labels = {
            **self._config.usage_context,
            "dbt_project": get_adapter_by_type("duckdb").config.project_name,  # type: ignore[no-untyped-call]
            "dbt_invocation_id": get_invocation_id(),
        }
        node = self._nodes.get(thread)
        if node is not None:
            labels["dbt_node"] = node
            if node.startswith(_MODEL):
                labels["dbt_model"] = node.split(".", 2)[2]
        return labels
