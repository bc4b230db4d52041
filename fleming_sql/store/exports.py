"""What is exported to Delta tables: the log's records by ranges, and notes on how far each table has come."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa

from fleming_sql.errors import ExportError
from fleming_sql.sqltext import quote_identifier, quote_text
from fleming_sql.store.call_rows import LAST_SEQ
from fleming_sql.store.catalog import CATALOG

LOG_TABLES: Final = ("inference", "attempts", "endpoint_usage", "guardrail_results")
"""What is exported of each call, named as the views of `serving`."""
ENTITIES: Final = "served_entities"
PARTITIONS: Final = {**dict.fromkeys(LOG_TABLES, "request_date"), ENTITIES: "change_date"}
"""All tables and the day that each is partitioned by."""
BATCH_CALLS: Final = 50_000
BATCH_BYTES: Final = 64 * 2**20
"""Of bodies, uncompressed, in one batch: what is held in memory at a time."""
KEPT_DAYS: Final = 30
_GLOB: Final = re.compile(r"([*?\[])")
_WITH_DATE: Final = frozenset({"inference"})
_ADDED: Final = {
    "inference": "null::varchar as store_id",
    **dict.fromkeys(LOG_TABLES[1:], "null::date as request_date, null::varchar as store_id"),
    ENTITIES: "null::date as change_date, null::varchar as store_id",
}
_BATCH_END: Final = """
with following as (
    select log_seq, coalesce(strlen(request), 0) + coalesce(strlen(response), 0) as bytes
    from serving.calls
    where log_seq > ? and log_seq <= ?
    order by log_seq
    limit ?
),
added_up as (
    select log_seq, sum(bytes) over (order by log_seq) as bytes, row_number() over (order by log_seq) as number
    from following
)
select max(log_seq) from added_up where number = 1 or bytes <= ?
"""
_PLAIN_BATCH_END: Final = """
select max(log_seq)
from (select log_seq from serving.calls where log_seq > ? and log_seq <= ? order by log_seq limit ?)
"""
_ROWS: Final = """
select {columns}, $store_id as store_id
from serving.{table} as v
{days}
where v.log_seq between $first and $last
order by v.log_seq
"""
_DAYS: Final = """
inner join (select log_seq, request_time::date as day from serving.calls where log_seq between $first and $last) as c
    on c.log_seq = v.log_seq
"""
_ENTITY_ROWS: Final = """
select *, change_time::date as change_date, $store_id as store_id
from serving.served_entities
order by served_entity_id
"""
_PROGRESS: Final = """
select
    max(to_seq),
    coalesce(max(to_seq) filter (exported_at is not null), 0),
    coalesce(max(to_seq) filter (exported_at is not null and (rows is null or rows > 0)), 0)
from serving.exports
where table_name = ? and location = ?
"""
_NOTE: Final = """
insert or replace into serving.exports values (?, ?, ?, ?, ?, if(?, now() at time zone 'UTC', null))
"""
_MARK: Final = """
update serving.exports
set exported_at = now() at time zone 'UTC'
where table_name = ? and location = ? and to_seq <= ? and exported_at is null
"""
_FORGET: Final = "delete from serving.exports where table_name = ? and location = ? and to_seq > ?"
_FORGET_UNMARKED: Final = "delete from serving.exports where table_name = ? and location = ? and exported_at is null"
_PRUNE: Final = f"""
delete from serving.exports as e
where e.table_name = $table and e.location = $location and e.to_seq < $last
    and (e.rows = 0 or e.exported_at < now() at time zone 'UTC' - interval {KEPT_DAYS} days and e.to_seq < (
        select max(to_seq) from serving.exports as l
        where l.table_name = $table and l.location = $location and l.exported_at is not null
            and (l.rows is null or l.rows > 0)
    ))
"""  # noqa: S608  own constant
_DONE: Final = """
select coalesce(max(done_at) > now() at time zone 'UTC' - to_seconds(?), false)
from serving.export_upkeep
where table_name = ? and location = ? and task = ?
"""


class CopiedStoreError(ExportError):
    """A Delta table has calls of this store that the store does not know of."""

    def __init__(self, table: str, place: str, there: int) -> None:
        super().__init__(
            f"the Delta table {table} at {place} has calls of this store up to number {there}, which it "
            "does not know of: it was restored from a copy, its log was emptied, or a copy of it exports there "
            "too. Set delta_location in fleming.settings to another place, which gets all that the store has"
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the export of one table to one place has come, by the store's own notes."""

    noted: int | None
    """Last call of any batch, written or not; None before the first."""
    exported: int
    """Last call that is known to be exported, 0 before the first."""
    with_rows: int
    """Last call of a batch that is known to be exported and had rows, 0 before the first."""


class ExportStore:
    """Reads what is to be exported, and notes what was. Any thread may use it.

    Args:
        cursor: A cursor of its own, whose current catalog is the store.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._lock = threading.Lock()
        self.store_id: str = self._rows("select store_id from serving.store")[0][0]
        """Tells the store's records from those of others at the same place."""

    def last_seq(self) -> int:
        """Return the `log_seq` of the last call in the log, 0 without any."""
        return int(self._rows(LAST_SEQ)[0][0])

    def batch_end(self, table: str, after: int, last: int) -> int | None:
        """Return the `log_seq` that a batch of the calls after another one ends with.

        Args:
            table: One of `LOG_TABLES`.
            after: The call before the first.
            last: The last call that it may hold.

        Returns:
            None where there are no such calls.
        """
        if table == "inference":
            return self._number(_BATCH_END, [after, last, BATCH_CALLS, BATCH_BYTES])
        return self._number(_PLAIN_BATCH_END, [after, last, BATCH_CALLS])

    def rows(self, table: str, first: int, last: int) -> pa.Table:
        """Return the rows of a range of calls, as the view `table` has them, with `request_date` and `store_id`."""
        dated = table in _WITH_DATE
        query = _ROWS.format(
            table=table, columns="v.*" if dated else "v.*, c.day as request_date", days="" if dated else _DAYS
        )
        return self._arrow(query, {"store_id": self.store_id, "first": first, "last": last})

    def entities(self) -> pa.Table:
        """Return all versions of served entities, with `change_date` and `store_id`."""
        return self._arrow(_ENTITY_ROWS, {"store_id": self.store_id})

    def progress(self, table: str, location: str) -> Progress:
        """Return how far the export of a table to a place has come."""
        return Progress(*self._rows(_PROGRESS, [table, location])[0])

    def note(self, table: str, location: str, first: int, last: int, rows: int | None, *, exported: bool) -> None:
        """Note that a batch is about to be exported, or was."""
        self._rows(_NOTE, [table, location, first, last, rows, exported])

    def mark(self, table: str, location: str, last: int) -> None:
        """Note that the batches up to a call were exported, and drop notes that nothing depends on any more."""
        self._rows(_MARK, [table, location, last])
        self._rows(_PRUNE, {"table": table, "location": location, "last": last})

    def forget(self, table: str, location: str, after: int) -> None:
        """Drop the notes on calls after another one: they are not at that place."""
        self._rows(_FORGET, [table, location, after])

    def forget_unmarked(self, table: str, location: str) -> None:
        """Drop the notes on batches that were not exported."""
        self._rows(_FORGET_UNMARKED, [table, location])

    def done_within(self, task: str, table: str, location: str, seconds: float) -> bool:
        """Return whether `upkeep_done` was called for the table within the last seconds."""
        return bool(self._rows(_DONE, [seconds, table, location, task])[0][0])

    def upkeep_done(self, task: str, table: str, location: str) -> None:
        """Note that a task of the table's upkeep was done now."""
        self._rows(
            "insert or replace into serving.export_upkeep values (?, ?, ?, now() at time zone 'UTC')",
            [table, location, task],
        )

    def _number(self, query: str, parameters: Sequence[Any]) -> int | None:
        found: int | None = self._rows(query, parameters)[0][0]
        return found

    def _rows(self, query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._cursor.execute(query, parameters).fetchall()

    def _arrow(self, query: str, parameters: dict[str, Any]) -> pa.Table:
        with self._lock:
            table: pa.Table = self._cursor.sql(query, params=parameters).to_arrow_table()
        return table


def lake_query(table: str, files: Sequence[str], instants: Sequence[str]) -> str:
    """Return the statement that reads a Delta table by its files, with the columns of the view that it came from.

    Columns that only newer versions of this package write come after them; what older ones did not write is NULL.

    Args:
        table: One of `PARTITIONS`.
        files: Its live files, as they are named; without any, the statement has no rows.
        instants: Columns that hold instants. They become UTC times without a zone, as in the view.

    Raises:
        KeyError: There is no such table.

    Example:
        >>> lake_query("served_entities", [], [])
        'select *, null::date as change_date, null::varchar as store_id from fleming.serving.served_entities limit 0'
    """
    empty = f"select *, {_ADDED[table]} from {CATALOG}.serving.{table} limit 0"  # noqa: S608  own names
    if not files:
        return empty
    times = ", ".join(f"{name} at time zone 'UTC' as {name}" for name in map(quote_identifier, instants))
    replaced = f" replace ({times})" if times else ""
    listed = ", ".join(quote_text(_GLOB.sub(r"[\1]", file)) for file in files)
    return (
        f"({empty}) union all by name select *{replaced} from read_parquet([{listed}], "  # noqa: S608  quoted
        f"union_by_name = true, hive_partitioning = true, hive_types = {{'{PARTITIONS[table]}': date}})"
    )
