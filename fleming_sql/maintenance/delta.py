"""The export of the log to Delta tables, and the upkeep of those tables: tasks of the maintenance thread.

Each record is exported exactly once, whenever a process is killed. Calls are numbered as they are logged (`log_seq`),
and a batch of them is appended in one Delta transaction whose version, under an application id of this store, is the
number of the batch's last call. So the Delta table knows up to which call it has this store's records, and that is
asked before anything is written. The store's own notes (`serving.exports`) are written before and after each batch:
they save the question while nothing has gone wrong, tell retention what may be removed, and betray a store that was
restored from a copy: then the table has more of it than it ever noted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa

from fleming_sql.clock import Clock
from fleming_sql.credentials import CredentialResolver, secret_reference
from fleming_sql.errors import ExportError
from fleming_sql.store.exports import (
    ENTITIES,
    LOG_TABLES,
    PARTITIONS,
    CopiedStoreError,
    ExportStore,
    Progress,
    lake_query,
)
from fleming_sql.types import Credential, Settings

if TYPE_CHECKING:
    from fleming_sql.maintenance.delta_tables import DeltaTables

FINISH_S: Final = 10.0
"""How long closing waits for the last export."""
_LOGGER: Final = logging.getLogger("fleming_sql")
_LOOK_S: Final = 3600.0
"""How often it is looked whether compaction or vacuum is due."""
_VACUUM_H: Final = 24.0
"""Files that are old enough are removed so often, or more often where they get old sooner."""
T = TypeVar("T")


class DeltaPlace:
    """Opens the Delta tables that the settings name.

    Args:
        credentials: Returns the credentials as they hold, by name.
        clock: Time and chance.
    """

    def __init__(self, credentials: Callable[[], Mapping[str, Credential]], clock: Clock) -> None:
        self._credentials = credentials
        self._clock = clock
        self._resolver = CredentialResolver(clock.monotonic)
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether the work under way is to end."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Have the work under way end as soon as possible. Any thread may call it."""
        self._stopping.set()

    def open(self, settings: Settings) -> DeltaTables:
        """Return the tables at `delta_location`.

        Raises:
            ExportError: There is no location, or deltalake is not installed.
            CredentialError: A secret among the storage options cannot be read.
        """
        if not settings.delta_location:
            raise ExportError("there is no place to export to: set delta_location in fleming.settings")
        self._stopping.clear()
        try:
            from fleming_sql.maintenance.delta_tables import DeltaTables
        except ImportError:
            raise ExportError(
                "delta_location is set in fleming.settings, but Delta tables need: pip install 'fleming-sql[delta]'"
            ) from None
        given = settings.delta_storage_options
        secrets = {key: self._secret(name) for key, value in given.items() if (name := secret_reference(value))}
        return DeltaTables(settings.delta_location, {**given, **secrets}, secrets.values(), self._wait)

    def _secret(self, name: str) -> str:
        return _ended(self._resolver.resolve(name, self._credentials())).reveal()

    def _wait(self, seconds: float) -> bool:
        return self._stopping.wait(seconds * (0.5 + self._clock.random()))


@dataclass(slots=True)
class _State:
    """How far the export of one table has come."""

    exported: int
    """Last call."""
    written: int
    """Last call of a batch with rows: the version of the transaction in the table."""


class DeltaExport:
    """The task that exports what is new.

    Args:
        store: What there is to export.
        place: Where to.
    """

    name = "delta_export"

    def __init__(self, store: ExportStore, place: DeltaPlace) -> None:
        self._store = store
        self._place = place
        self._running = threading.Lock()
        self._location: str | None = None
        self._states: dict[str, _State] = {}
        self._entities: pa.Table | None = None
        self.conflicts = 0
        """Commits that met one of another process and were tried again."""

    def every_s(self, settings: Settings) -> float | None:
        """Return the setting `delta_every_seconds`, None without a location."""
        return settings.delta_every_seconds if settings.delta_location else None

    def run(self, settings: Settings) -> str:
        """Export all calls that were logged before now, and what has changed of the served entities.

        Raises:
            ExportError: The tables cannot be read or written.
            CredentialError: A secret among the storage options cannot be read.
        """
        with self._running:  # closing does not wait for ever for the run that was under way, and begins another
            return self._run(settings)

    def _run(self, settings: Settings) -> str:
        if settings.delta_location != self._location:
            self._forget(settings.delta_location)
        entities, last = self._store.entities(), self._store.last_seq()
        behind = [table for table in LOG_TABLES if table not in self._states or self._states[table].exported < last]
        new_entities = entities.num_rows > 0 and (self._entities is None or not entities.equals(self._entities))
        if not behind and not new_entities:
            return "nothing new"
        tables = self._place.open(settings)
        try:
            rows = {table: self._export(tables, table, last) for table in behind}
            if new_entities:
                tables.merge(ENTITIES, entities, PARTITIONS[ENTITIES], "served_entity_id", self._store.store_id)
                self._entities = entities
        except BaseException:
            self._forget(settings.delta_location)  # a try that failed may have been committed: the tables are asked
            raise
        finally:
            self.conflicts += tables.conflicts
        return f"exported {', '.join(f'{count} rows of {table}' for table, count in rows.items()) or ENTITIES}"

    def stop(self) -> None:
        """Break off `run` after the batch under way."""
        self._place.stop()

    def finish(self, settings: Settings, seconds: float = FINISH_S) -> None:
        """Export what is left, for so many seconds at most; what is not done then is at the next start."""
        if not settings.delta_location:
            return
        thread = threading.Thread(target=self._run_or_warn, args=(settings,), name="fleming-sql-delta", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending and takes no new thread
            self._run_or_warn(settings)
            return
        thread.join(seconds)
        if thread.is_alive():
            self.stop()
            _LOGGER.warning("the last export did not end within %g s; the rest is exported at the next start", seconds)

    def _run_or_warn(self, settings: Settings) -> None:
        try:
            self.run(settings)
        except BaseException as error:  # noqa: BLE001  closing goes on whatever it fails by, a closed store too
            _LOGGER.warning("the last export failed, what is left is exported at the next start: %s", error)

    def _forget(self, location: str | None) -> None:
        self._location = location
        self._states.clear()
        self._entities = None

    def _export(self, tables: DeltaTables, table: str, last: int) -> int:
        """Export a table up to a call and return how many rows that were."""
        app_id = f"fleming-sql/{self._store.store_id}/{table}"
        if table not in self._states:
            self._states[table] = self._resume(tables, table, tables.written(table, app_id))
        state = self._states[table]
        count = 0
        while not self._place.stopping:
            end = self._store.batch_end(table, state.exported, last)
            if end is None:
                state.exported = last
                break
            count += self._export_batch(tables, table, app_id, state, end)
        return count

    def _export_batch(self, tables: DeltaTables, table: str, app_id: str, state: _State, end: int) -> int:
        first = state.exported + 1
        rows = self._store.rows(table, first, end)
        self._store.note(table, tables.location, first, end, rows.num_rows, exported=rows.num_rows == 0)
        if rows.num_rows:
            try:
                tables.append(table, rows, PARTITIONS[table], app_id, end, following=state.written)
            except CopiedStoreError:
                self._disown(table, tables.location, state.written)
                raise
            state.written = end
        self._store.mark(table, tables.location, end)
        state.exported = end
        return rows.num_rows

    def _disown(self, table: str, location: str, after: int) -> None:
        """Have the notes say that nothing was exported after a call, so that the next run does not take it for ours."""
        self._store.forget(table, location, after)
        if self._store.progress(table, location).noted is None:
            self._store.note(table, location, 0, after, 0, exported=True)

    def _resume(self, tables: DeltaTables, table: str, written: int | None) -> _State:
        """Return how far a table has come by itself, and set the store's notes right.

        Raises:
            ExportError: The table has calls that this store did not export.
        """
        progress = self._store.progress(table, tables.location)
        after = resume_after(progress, written, self._store.last_seq())
        if after is None:
            raise CopiedStoreError(table, tables.shown, max(written or 0, progress.exported))
        if written is not None and progress.noted is None:
            self._store.note(table, tables.location, 1, written, None, exported=True)
        self._store.forget(table, tables.location, after)
        self._store.mark(table, tables.location, after)
        return _State(after, written or 0)


def resume_after(progress: Progress, written: int | None, last_seq: int) -> int | None:
    """Return the call after which the export of a table goes on, None where going on would lose or double records.

    Args:
        progress: What the store noted about this place.
        written: Last call of this store that the Delta table says it has, None without any.
        last_seq: Last call in the log.

    Example:
        >>> resume_after(Progress(noted=20, exported=10, with_rows=10), 20, 25)  # killed between writing and marking
        20
        >>> resume_after(Progress(noted=20, exported=10, with_rows=10), 10, 25)  # killed before writing
        10
        >>> resume_after(Progress(noted=20, exported=20, with_rows=20), None, 25)  # the table was deleted since
        0
    """
    there = written or 0
    known = last_seq if progress.noted is None else progress.noted  # a place may be known by another name before
    if there > known:
        return None
    if there < progress.with_rows:
        return there  # an earlier state of the table, or a new one
    if progress.exported > last_seq:
        return None
    return max(there, progress.exported)


class DeltaCompaction:
    """The task that makes the small files of many exports into large ones.

    Args:
        store: Notes when it was done.
        place: Where the tables are.
    """

    name = "delta_compaction"

    def __init__(self, store: ExportStore, place: DeltaPlace) -> None:
        self._store = store
        self._place = place

    def every_s(self, settings: Settings) -> float | None:
        """Return how often to look whether it is due, None where it is off."""
        return _look_s(settings, settings.delta_compact_hours)

    def run(self, settings: Settings) -> str:
        """Compact each table that this store has not compacted within `delta_compact_hours`.

        Raises:
            ExportError: The tables cannot be read or written.
            CredentialError: A secret among the storage options cannot be read.
        """
        due = _due(self._store, self.name, settings, settings.delta_compact_hours)
        fewer = _upkeep(self._store, self.name, self._place, settings, due, lambda tables, table: tables.compact(table))
        return f"{sum(fewer)} files fewer in {len(fewer)} tables"

    def stop(self) -> None:
        """Nothing can be broken off: a compaction that is not committed leaves the table as it was."""


class DeltaVacuum:
    """The task that removes files which the tables do not need any more.

    Args:
        store: Notes when it was done.
        place: Where the tables are.
    """

    name = "delta_vacuum"

    def __init__(self, store: ExportStore, place: DeltaPlace) -> None:
        self._store = store
        self._place = place

    def every_s(self, settings: Settings) -> float | None:
        """Return how often to look whether it is due, None where it is off."""
        return _look_s(settings, settings.delta_vacuum_hours)

    def run(self, settings: Settings) -> str:
        """Remove files that have not been part of a table for `delta_vacuum_hours`, once a day.

        Raises:
            ExportError: Or the hours are fewer than the table's own property `delta.deletedFileRetentionDuration`
                (168 without one), which readers and writers of other processes rely on.
            CredentialError: A secret among the storage options cannot be read.
        """
        due = _due(self._store, self.name, settings, min(settings.delta_vacuum_hours, _VACUUM_H))
        hours = settings.delta_vacuum_hours
        removed = _upkeep(
            self._store, self.name, self._place, settings, due, lambda tables, table: tables.vacuum(table, hours)
        )
        return f"{sum(removed)} files removed from {len(removed)} tables"

    def stop(self) -> None:
        """Nothing can be broken off: what was not removed is at the next time."""


class DeltaLake:
    """Reads the exported tables: what is behind the views of the schema `lake`.

    Args:
        place: Where they are.
    """

    def __init__(self, place: DeltaPlace) -> None:
        self._place = place

    def query(self, table: str, settings: Settings) -> str:
        """Return the statement that reads a table as it is exported now; one without rows before anything was.

        Raises:
            ExportError: The table cannot be read.
            CredentialError: A secret among the storage options cannot be read.
        """
        if not settings.delta_location:
            return lake_query(table, (), ())
        return lake_query(table, *self._place.open(settings).files(table))


def _look_s(settings: Settings, hours: float) -> float | None:
    if not settings.delta_location or hours == 0:
        return None
    return min(hours * 3600, _LOOK_S)


def _due(store: ExportStore, task: str, settings: Settings, hours: float) -> Sequence[str]:
    location = settings.delta_location
    if not location:
        return ()
    return [table for table in PARTITIONS if not store.done_within(task, table, location, hours * 3600)]


def _upkeep(
    store: ExportStore,
    task: str,
    place: DeltaPlace,
    settings: Settings,
    due: Sequence[str],
    work: Callable[[DeltaTables, str], int | None],
) -> Sequence[int]:
    """Do the work on each table that is due and there, and return what it returned."""
    if not due:
        return ()
    tables = place.open(settings)
    done = []
    for table in due:
        result = work(tables, table)
        if result is not None:
            store.upkeep_done(task, table, tables.location)
            done.append(result)
    return done


def _ended(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, also on a thread that runs an event loop, as that of a notebook does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
