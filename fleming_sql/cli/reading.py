"""Opens a store for looking only: at once, beside other readers, without a gateway and without changing the file.

DuckDB lets one process write to a file, or several read it. While a process has a gateway on the store, nobody else
can read it; the error says so. Between two looks the file is closed, so that others can open it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleming_sql.cli.options import MEMORY, Common

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@contextmanager
def open_log(common: Common) -> Iterator[Any]:
    """Open the store as catalog `fleming` for statements that only read; yields a DuckDB connection.

    Raises:
        CommandFailed: There is no such store.
        StoreError: It cannot be opened, as while another process has it open.
    """
    common.check_store()
    con = _read_only(common.store)
    if con is None:
        # What a killed process left behind, or an older version made, is for the gateway to take over, and so is
        # telling why a store cannot be opened.
        with common.connect() as gateway:
            yield gateway
        return
    try:
        yield con
    finally:
        con.close()


def signature(store: str) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when somebody writes to the store, without opening it."""
    found = []
    for name in (store, f"{store}.wal"):
        try:
            stat = Path(name).stat()
        except OSError:
            continue
        found.append((name, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def _read_only(store: str) -> DuckDBPyConnection | None:
    """Return a connection, None where the store is not as the last gateway leaves it when it closes."""
    import duckdb

    from fleming_sql.sqltext import quote_text
    from fleming_sql.store.files import read_files
    from fleming_sql.store.migrations import applied

    if store == MEMORY or "://" in store or _has_leftovers(store):
        return None
    con = duckdb.connect()
    try:
        con.execute(f"attach {quote_text(store)} as fleming (read_only)")
        con.execute("use fleming.main")
        if applied(con) == [file.name for file in read_files("migrations")]:
            return con
    except duckdb.Error:
        pass
    con.close()
    return None


def _has_leftovers(store: str) -> bool:
    """Return whether there are records that are not in the tables yet."""
    from fleming_sql.store.journal import journal_folder

    folder = journal_folder(store)
    return folder.is_dir() and any(path.stat().st_size for path in folder.glob("*.ndjson"))
