"""Answers that the log holds and that may be given again: looked up for a whole vector at once."""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

import duckdb
import pyarrow as pa

from fleming_sql.store.call_rows import naive
from fleming_sql.types import StoredAnswer

_KEYS: Final = "fleming_keys"
_HAS_ANY: Final = "select 1 from serving.calls limit 1"
# In two steps, because most vectors are new: comparing the hashes reads 16 bytes a call, the bodies a thousand.
_FIND: Final = f"""
select max(c.log_seq)
from serving.calls as c
semi join (select request_hash::uuid as request_hash from {_KEYS}) as k using (request_hash)
where c.status_code = 200 and not c.cache_hit and c.payload_logging
    and c.request_time > greatest(
        ?::timestamp, (select max(cleared_at) from serving.cache_clears where endpoint_name = c.endpoint_name)
    )
group by c.request_hash
"""  # noqa: S608  own names
_READ: Final = """
select
    request_hash::varchar,
    databricks_request_id,
    served_entity_id,
    request_time,
    coalesce(request, packed_request) as asked,
    coalesce(response, packed_response) as told
from serving.calls
where log_seq in (select unnest(?::bigint[])) and asked is not null and told is not null
"""
_CLEARED: Final = """
select count(distinct request_hash)
from serving.calls as c
left join serving.cache_clears as x using (endpoint_name)
where (? is null or endpoint_name = ?) and status_code = 200 and not cache_hit and payload_logging
    and request_time > coalesce(x.cleared_at, '-infinity'::timestamp)
"""
_CLEAR: Final = """
insert or replace into serving.cache_clears
select name, now() at time zone 'UTC'
from main.endpoints
where ? is null or name = ?
"""


class StoredAnswers:
    """The answers in the log of one store. Any thread may ask.

    Args:
        cursor: A cursor of its own, whose current catalog is the store.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._lock = threading.Lock()
        self.from_earlier = bool(cursor.execute(_HAS_ANY).fetchall())
        """Whether earlier processes left any calls."""

    def find(self, keys: Collection[bytes], since: datetime) -> dict[bytes, StoredAnswer]:
        """Return the latest answer to each request that has one.

        Args:
            keys: Request hashes.
            since: Older ones do not count.
        """
        with self._lock:
            self._cursor.register(_KEYS, pa.table({"request_hash": [key.hex() for key in keys]}))
            try:
                found = self._cursor.execute(_FIND, [naive(since)]).fetchall()
            finally:
                self._cursor.unregister(_KEYS)
            if not found:
                return {}
            rows = self._cursor.execute(_READ, [[seq for (seq,) in found]]).fetchall()
        return {
            bytes.fromhex(key.replace("-", "")): StoredAnswer(request_id, entity, at.replace(tzinfo=UTC), asked, told)
            for key, request_id, entity, at, asked, told in rows
        }

    def clear(self, endpoint: str | None) -> int:
        """Give no answer again that was made before now; return how many those are.

        Args:
            endpoint: Whose; None for all.
        """
        with self._lock:
            count: int = self._cursor.execute(_CLEARED, [endpoint, endpoint]).fetchall()[0][0]
            self._cursor.execute(_CLEAR, [endpoint, endpoint])
        return count


def oldest(now: datetime, ttl_s: float) -> datetime:
    """Return since when answers may be given again."""
    try:
        return now - timedelta(seconds=ttl_s)
    except OverflowError:  # a time to live of thousands of years
        return datetime.min.replace(tzinfo=UTC)
