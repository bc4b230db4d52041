"""What a session does beside its calls, put together: export, retention, packing, alerts, and the thread for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import duckdb

from fleming_sql.clock import Clock
from fleming_sql.maintenance.alerts import AlertBoard
from fleming_sql.maintenance.delta import DeltaCompaction, DeltaExport, DeltaLake, DeltaPlace, DeltaVacuum
from fleming_sql.maintenance.packing import Packing
from fleming_sql.maintenance.retention import Compaction, Retention
from fleming_sql.maintenance.webhooks import Webhooks
from fleming_sql.maintenance.worker import Task, Worker, Workers
from fleming_sql.store.alerts import AlertStore
from fleming_sql.store.config import ConfigReader
from fleming_sql.store.exports import ExportStore
from fleming_sql.store.packing import LogPacker
from fleming_sql.store.retention import LogTrimmer
from fleming_sql.transport.pooled import PooledTransport
from fleming_sql.types import Credential, Settings, Snapshot


class Upkeep:
    """The tasks of one session. None of them ever holds up a call.

    Args:
        open_cursor: Opens a cursor whose current catalog is the store, closed with the session.
        config: The configuration.
        is_busy: Whether statements are under way.
        clock: Time.
        in_memory: Whether the store is: then there is no file to keep small.
    """

    def __init__(
        self,
        open_cursor: Callable[[], duckdb.DuckDBPyConnection],
        config: ConfigReader,
        is_busy: Callable[[], bool],
        clock: Clock,
        *,
        in_memory: bool,
    ) -> None:
        self._config = config
        place, exports, trimmer = (
            DeltaPlace(self._credentials, clock),
            ExportStore(open_cursor()),
            LogTrimmer(open_cursor),
        )
        self.export = DeltaExport(exports, place)
        self._lake = DeltaLake(DeltaPlace(self._credentials, clock))
        self.alerts = AlertBoard(
            AlertStore(open_cursor),
            partial(Webhooks, PooledTransport(), self._credentials, clock),
            clock,
            lambda: self.worker.wake(AlertBoard.name),
        )
        tasks: list[Task] = [
            Retention(trimmer, clock),
            Compaction(trimmer, is_busy, clock),
            self.alerts,
        ]
        if not in_memory:
            tasks.append(Packing(LogPacker(open_cursor), is_busy, clock))
        delta: list[Task] = [self.export, DeltaCompaction(exports, place), DeltaVacuum(exports, place)]
        # A thread of their own: an object store may hang, and alerts and retention are not to wait for it.
        self._delta = Worker(delta, self._settings, clock)
        self.worker = Workers(Worker(tasks, self._settings, clock), self._delta)

    def look(self, snapshot: Snapshot) -> None:
        """Take over a configuration that may have changed. Called for each statement, so it is quick."""
        self.alerts.configure(snapshot.alerts)
        self.worker.look(snapshot.settings)

    def report(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows of `serving.maintenance`, as of now."""
        settings = self._settings()
        self.worker.look(settings)
        return self.worker.report(settings)

    def lake(self, table: str) -> str:
        """Return the statement that reads an exported table, as it is now.

        Raises:
            ExportError: It cannot be read.
            CredentialError: A secret of the place where it is cannot be read.
        """
        return self._lake.query(table, self._config.snapshot().settings)

    def finish(self) -> None:
        """Raise the last alerts and export the last records, within bounds; the threads have ended before.

        Where the thread of the export hangs, another try would hang too: what is left is exported at the next start.
        """
        with suppress(duckdb.Error):  # the connection was closed, and the store with it
            self.alerts.close()
        if self._delta.hangs:
            return
        with suppress(duckdb.Error):
            self.export.finish(self._config.snapshot().settings)

    def _settings(self) -> Settings:
        snapshot = self._config.snapshot()
        self.alerts.configure(snapshot.alerts)
        return snapshot.settings

    def _credentials(self) -> Mapping[str, Credential]:
        return self._config.snapshot().credentials
