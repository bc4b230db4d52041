"""Delta tables at one place, by the package deltalake: the one module that imports it, on demand.

Every store appends under an application id of its own, with the last call of the batch as the version. So a table
itself tells how far each store has come, whatever became of the process that wrote it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit
from uuid import uuid4

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType

from fleming_sql.errors import ExportError
from fleming_sql.store.exports import CopiedStoreError

TRIES: Final = 10
"""How often a commit is tried anew on the table as it is by then, with a growing wait between."""
COMMIT_RETRIES: Final = 100
"""How often one try moves its commit behind those of others; the default of 15 is used up at 8 writers."""
_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_SECRET_OPTION: Final = re.compile(r"secret|key|token|password|sas|credential", re.IGNORECASE)
_PROPERTIES: Final = {"delta.enableDeletionVectors": "false"}  # many readers cannot read tables that have them
_INSTANT: Final = pa.timestamp("us", "UTC")
_DELTA_INSTANT: Final = PrimitiveType("timestamp")
_PATIENCE: Final = {"connect_timeout": "5s", "timeout": "30s", "max_retries": "3", "retry_timeout": "60s"}
"""For an object store where the options say nothing else: one that hangs is an error after about a minute."""
_BATCH: Final = "fleming-sql-batch"
"""Key of the commit's metadata that tells one try to append a batch from that of a copy of the store."""
_LEAST_SECRET: Final = 4
"""Characters; a shorter value of a query string is no secret, and may be part of any word."""
_FAILURES: Final = (DeltaError, OSError, ValueError, pa.ArrowException)


class DeltaTables:
    """The tables under one location.

    Args:
        location: A folder, or the URL of one in an object store.
        options: Storage options as deltalake takes them, with secrets filled in.
        secrets: Those secrets, which no error text is to hold.
        wait: Waits for so many seconds, or less if the work is to be broken off; then it returns true.

    Raises:
        ExportError: From every method, with what to change and without secrets.
    """

    def __init__(
        self, location: str, options: Mapping[str, str], secrets: Iterable[str], wait: Callable[[float], bool]
    ) -> None:
        self.location = location
        self.shown, hidden = _without_userinfo_and_query(location)
        """The location without what may be a secret."""
        self._is_local = not _SCHEME.match(location) or location.lower().startswith("file:")
        self._options = dict(options)
        if not self._is_local and not location.startswith("memory:"):
            given = {key.lower() for key in options}
            self._options |= {key: value for key, value in _PATIENCE.items() if key not in given}
        plain = (value for key, value in options.items() if _SECRET_OPTION.search(key))
        self._secrets = sorted({*filter(None, secrets), *filter(None, plain), *hidden}, key=len, reverse=True)
        self._wait = wait
        self.conflicts = 0
        """Tries that met a commit of another writer."""

    def written(self, table: str, app_id: str) -> int | None:
        """Return the version of an application's last transaction in a table, None without any."""
        found = self._find(table)
        return None if found is None else found.transaction_version(app_id)

    def append(self, table: str, rows: pa.Table, partition: str, app_id: str, version: int, *, following: int) -> None:
        """Append rows in a transaction, unless it stands in the table already. The table is made if need be.

        Args:
            table: Its name.
            rows: What to append.
            partition: Column that a new table is partitioned by.
            app_id: The application.
            version: Of the transaction.
            following: Version of the application's last transaction, 0 without any; a table that does not have it was
                deleted or set back meanwhile, and gets nothing.

        Raises:
            CopiedStoreError: Somebody else has written as this application.
        """
        batch = str(uuid4())
        commit = CommitProperties(
            app_transactions=[Transaction(app_id, version)],
            max_commit_retries=COMMIT_RETRIES,
            custom_metadata={_BATCH: batch},
        )
        tried_on: list[int] = []

        def attempt() -> None:
            found = self._find(table)
            written = (found and found.transaction_version(app_id)) or 0
            if found and tried_on and written == version and _has_commit(found, batch, tried_on[0]):
                return  # the try failed after its commit
            if written < following:
                raise ExportError(
                    f"the Delta table {table} at {self.shown} was deleted or set back to an earlier state; what it "
                    "lacks is exported again"
                )
            if written > following:
                raise CopiedStoreError(table, self.shown, written)
            tried_on.append(-1 if found is None else found.version())
            self._write(table, found, rows, partition, commit)

        self._commit(attempt)

    def merge(self, table: str, rows: pa.Table, partition: str, key: str, store_id: str) -> None:
        """Make rows stand in a table once for each key of the store, as they are in `rows`."""

        def attempt() -> None:
            found = self._find(table)
            if found is None:
                self._write(table, None, rows, partition, CommitProperties(max_commit_retries=COMMIT_RETRIES))
                return
            changed = self._changed(found, rows, key, store_id)
            if changed.num_rows == 0:
                return
            merger = found.merge(
                _plain(changed),
                " and ".join(f"t.{column} = s.{column}" for column in (partition, "store_id", key)),
                source_alias="s",
                target_alias="t",
                merge_schema=True,
                commit_properties=CommitProperties(max_commit_retries=COMMIT_RETRIES),
            )
            merger.when_matched_update_all().when_not_matched_insert_all().execute()

        self._commit(attempt)

    def compact(self, table: str) -> int | None:
        """Make the small files of a table into large ones, and return how many fewer there are; None without one."""
        found = self._find(table)
        if found is None:
            return None
        with self._explained():
            done = found.optimize.compact(commit_properties=CommitProperties(max_commit_retries=COMMIT_RETRIES))
            return int(done["numFilesRemoved"]) - int(done["numFilesAdded"])

    def vacuum(self, table: str, hours: float) -> int | None:
        """Remove files that no version of the last hours holds, and return how many; None without a table."""
        found = self._find(table)
        if found is None:
            return None
        with self._explained("row delta_vacuum_hours"):
            # full: what killed processes wrote and did not commit goes too
            return len(found.vacuum(retention_hours=int(hours), dry_run=False, full=True))

    def files(self, table: str) -> tuple[Sequence[str], Sequence[str]]:
        """Return the live files of a table, and the names of its columns that hold instants."""
        found = self._find(table)
        if found is None:
            return (), ()
        with self._explained():
            files = [unquote(file) for file in found.file_uris()] if self._is_local else found.file_uris()
            return files, [field.name for field in found.schema().fields if field.type == _DELTA_INSTANT]

    def _uri(self, table: str) -> str:
        if _SCHEME.match(self.location):
            return f"{self.location.rstrip('/')}/{table}"
        return str(Path(os.path.abspath(Path(self.location).expanduser())) / table)

    def _find(self, table: str) -> DeltaTable | None:
        uri = self._uri(table)
        with self._explained():
            # Of a folder deltalake says the same whether it has no table or may not be read.
            if not _SCHEME.match(uri) and not (Path(uri) / "_delta_log").is_dir():
                return None
            try:
                return DeltaTable(uri, storage_options=self._options)
            except TableNotFoundError:
                return None

    def _write(
        self, table: str, found: DeltaTable | None, rows: pa.Table, partition: str, commit: CommitProperties
    ) -> None:
        # On the table as it was looked at: a transaction of the same application since then is a conflict.
        write_deltalake(
            self._uri(table) if found is None else found,
            _plain(rows),
            mode="append",
            schema_mode="merge",
            partition_by=[partition],
            configuration=_PROPERTIES if found is None else None,
            storage_options=self._options if found is None else None,
            commit_properties=commit,
        )

    def _changed(self, found: DeltaTable, rows: pa.Table, key: str, store_id: str) -> pa.Table:
        own = found.to_pyarrow_table(filters=[("store_id", "=", store_id)]).to_pylist()
        known = {row[key]: row for row in own}
        return rows.filter(pa.array([_differs(row, known.get(row[key])) for row in _plain(rows).to_pylist()]))

    def _commit(self, attempt: Callable[[], None]) -> None:
        for number in range(TRIES):
            with self._explained():
                try:
                    attempt()
                    return
                except CommitFailedError:  # another writer made or changed the table, or the same rows, meanwhile
                    if number == TRIES - 1:
                        raise
            self.conflicts += 1
            if self._wait(0.02 * 2 ** min(number, 5)):
                raise ExportError("the export was broken off; it goes on when the store is opened again")

    @contextmanager
    def _explained(self, settings: str = "rows delta_location and delta_storage_options") -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not isinstance(error, _FAILURES) and not _is_panic(error):
                raise
            raise ExportError(
                f"the Delta tables at {self.shown} cannot be used: {self._without_secrets(str(error))} "
                f"(table fleming.settings, {settings})"
            ) from None

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return " ".join(_COLOUR.sub("", text).split())


def _is_panic(error: BaseException) -> bool:
    """Return whether deltalake gave up: that exception is no `Exception`, and nothing to import."""
    return type(error).__module__ == "pyo3_runtime"


def _has_commit(table: DeltaTable, batch: str, after: int) -> bool:
    """Return whether one of the versions after another one is the commit of a batch."""
    return any(commit.get(_BATCH) == batch for commit in table.history(max(1, table.version() - after)))


def _without_userinfo_and_query(location: str) -> tuple[str, set[str]]:
    """Return a location without what may be a secret, and what that is, as it may stand in an error text."""
    if not _SCHEME.match(location) or location.lower().startswith("file:"):
        return location, set()
    try:
        parts = urlsplit(location)
    except ValueError:  # such as http://[
        return location.partition("?")[0].rpartition("@")[2], {location}
    userinfo, _, host = parts.netloc.rpartition("@")
    hidden = {userinfo, userinfo.partition(":")[2], parts.query, parts.fragment}
    hidden |= {value for _, value in parse_qsl(parts.query)}
    spelt = {text for secret in hidden for text in (secret, unquote(secret), quote(secret), quote(secret, safe=""))}
    return urlunsplit((parts.scheme, host, parts.path, "", "")), {text for text in spelt if len(text) >= _LEAST_SECRET}


def _plain(rows: pa.Table) -> pa.Table:
    """Return rows whose UTC times are instants, the one type for times that every Delta reader knows."""
    fields = [field.with_type(_INSTANT) if field.type == pa.timestamp("us") else field for field in rows.schema]
    return rows.cast(pa.schema(fields))


def _differs(row: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    return known is None or any(known.get(name) != value for name, value in row.items())
