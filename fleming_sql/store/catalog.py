"""Opens a store: attaches its file to a DuckDB instance as the catalog `fleming`, upgrades it, lets go of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import duckdb
import pyarrow as pa

from fleming_sql.errors import ArgumentError, StoreDamaged, StoreError, StoreLocked, StoreTooNew
from fleming_sql.sqltext import quote_identifier, quote_text
from fleming_sql.store.files import read_files
from fleming_sql.store.migrations import migrate
from fleming_sql.store.price_list import seed_prices

CATALOG: Final = "fleming"
MEMORY: Final = ":memory:"
_DUCKDB_MAGIC: Final = b"DUCK"
_MAGIC_OFFSET: Final = 8
_BATCH: Final = "fleming_rows"
_ROW_GROUP: Final = 2048
"""A checkpoint, one each 16 MB, writes the unfinished row group anew: with DuckDB's 122,880 rows that takes most of the
time of logging. It is also what a vector holds, so the log's batches are whole row groups, which skip the WAL."""
_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
"""Of two letters and more: one is a drive of Windows."""


def attached_path(cursor: duckdb.DuckDBPyConnection) -> str | None:
    """Return the path behind the catalog `fleming` of this instance ('' if in memory), None without one."""
    rows = cursor.execute(
        "select coalesce(path, '') from duckdb_databases() where database_name = ?", [CATALOG]
    ).fetchall()
    return rows[0][0] if rows else None


def is_store(cursor: duckdb.DuckDBPyConnection) -> bool:
    """Return whether the current database of a cursor is a gateway store, opened as a user's database."""
    return bool(
        cursor.execute(
            "select 1 from duckdb_tables() where database_name = current_database() "
            "and schema_name = 'serving' and table_name = 'calls'"
        ).fetchall()
    )


def open_store(
    cursor: duckdb.DuckDBPyConnection, path: str, described: Mapping[str, Sequence[Sequence[object]]]
) -> None:
    """Attach the store at `path`, creating it if need be, and bring it to this version's schema.

    Args:
        cursor: A cursor of the user's instance, which from now on has the store as its current catalog.
        path: A file, or `:memory:`.
        described: What this version knows, such as providers: the rows that each of these tables is to hold.

    Raises:
        StoreError: With the file's name and the way out; nothing stays attached.
    """
    _attach(cursor, path)
    try:
        cursor.execute(f"use {CATALOG}.main")
        migrate(cursor)
        cursor.execute("begin")
        for table, rows in described.items():
            _fill(cursor, table, [tuple(row) for row in rows])
        seed_prices(cursor)
        for file in read_files("objects"):
            cursor.execute(file.text)
        cursor.execute("commit")
    except duckdb.Error as error:
        detach_store(cursor)
        raise StoreError(f"the gateway store {path} could not be upgraded: {error}") from error
    except StoreError:
        detach_store(cursor)
        raise


def _fill(cursor: duckdb.DuckDBPyConnection, table: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Make a table hold these rows. What it holds already is not written again: each commit goes to the disk."""
    name = quote_identifier(table)
    held = cursor.execute(f"from {name}").fetchall()
    if len(held) == len(rows) and all(row in held for row in rows):
        return
    cursor.execute(f"delete from {name}")  # noqa: S608  own names
    if rows:  # as a table: 76 rows take 2 ms, as 760 bound values 7 ms
        columns = {f"column{number}": list(values) for number, values in enumerate(zip(*rows, strict=True))}
        cursor.register(_BATCH, pa.table(columns))
        try:
            cursor.execute(f"insert into {name} from {_BATCH}")
        finally:
            cursor.unregister(_BATCH)


def detach_store(cursor: duckdb.DuckDBPyConnection) -> None:
    """Let go of the store; what stands in its way (a user's open transaction) leaves it to the instance's end."""
    with suppress(duckdb.Error):  # no transaction was open
        cursor.execute("rollback")
    with suppress(duckdb.Error):  # still in use by the user's own transaction: closed with the instance
        cursor.execute("use memory" if _has_memory(cursor) else f"use {quote_identifier(_other_catalog(cursor))}")
        cursor.execute(f"detach {CATALOG}")


def _has_memory(cursor: duckdb.DuckDBPyConnection) -> bool:
    return bool(cursor.execute("select 1 from duckdb_databases() where database_name = 'memory'").fetchall())


def _other_catalog(cursor: duckdb.DuckDBPyConnection) -> str:
    rows = cursor.execute(
        "select database_name from duckdb_databases() where not internal and database_name <> ? order by database_oid",
        [CATALOG],
    ).fetchall()
    return str(rows[0][0])


def _attach(cursor: duckdb.DuckDBPyConnection, path: str) -> None:
    if path != MEMORY:
        _create_if_missing(path)
    try:
        cursor.execute(
            f"attach {quote_text(path)} as {CATALOG} (type duckdb, row_group_size {_ROW_GROUP}"
            f"{'' if path == MEMORY else ', read_write'})"
        )
    except duckdb.Error as error:
        raise _explain(path, error) from error


def _create_if_missing(path: str) -> None:
    """Create the file by itself first: a read-only instance attaches an existing one but creates none.

    It is made under another name: DuckDB does not open a file whose making was killed after its first bytes.
    """
    if Path(path).exists():
        return
    new = f"{path}.{uuid4().hex[:8]}.new"
    creator = duckdb.connect()
    try:
        # The oldest version with typed macro parameters: DuckDB 1.5 and 2.0 open each other's stores.
        creator.execute(f"attach {quote_text(new)} as {CATALOG} (storage_version 'v1.4.0')")
        creator.close()
        _publish(new, path)
    except (duckdb.Error, OSError) as error:
        if Path(path).exists():
            return  # another process was faster; attaching says whether it still has the file
        raise StoreError(
            f"the gateway store {path} cannot be created: {error}. Name a folder that can be written with gateway="
        ) from error
    finally:
        creator.close()
        Path(new).unlink(missing_ok=True)


def _publish(new: str, path: str) -> None:
    """Give a file its name, unless another one has it."""
    try:
        os.link(new, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        os.rename(new, path)


def _explain(path: str, error: duckdb.Error) -> StoreError:
    """Say what is the matter. DuckDB has one error class for all of it, so the file itself is looked at first."""
    if not _is_duckdb_file(path):
        return StoreDamaged(
            f"the gateway store {path} is not a readable DuckDB database: restore it from a copy, or move it "
            "away and a new one is created"
        )
    text = str(error)
    if "already attached" in text or "file handle conflict" in text:
        return StoreLocked(
            f"the gateway store {path} is already open in this process, by another DuckDB instance: use that "
            "connection or its cursors, or name another store with gateway="
        )
    if "Could not set lock" in text:
        return StoreLocked(
            f"the gateway store {path} is open in another process: close it there, or name another store with "
            f"gateway=. ({text.splitlines()[0]})"
        )
    if "newer version" in text or "version number" in text:
        return StoreTooNew(f"the gateway store {path} was written by a newer DuckDB: upgrade duckdb. ({text})")
    return StoreDamaged(f"the gateway store {path} cannot be opened: {text}")


def _is_duckdb_file(path: str) -> bool:
    if path == MEMORY:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(_MAGIC_OFFSET + len(_DUCKDB_MAGIC))[_MAGIC_OFFSET:] == _DUCKDB_MAGIC
    except OSError:
        return False


def check_path(gateway: str) -> None:
    """Refuse what is not a file path.

    Raises:
        ArgumentError: `gateway` is empty or a URL.
    """
    if not gateway or "\0" in gateway:
        raise ArgumentError("DATATYPE_MISMATCH", f"gateway={gateway!r} is no file path: name a file or :memory:")
    if _SCHEME.match(gateway):
        raise ArgumentError(
            "AI_FUNCTION_UNSUPPORTED_REQUEST",
            f"gateway={gateway!r} is an address, such as that of a gateway server, which this version cannot connect "
            "to: name a file or :memory:",
        )
