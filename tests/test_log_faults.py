"""What an attacker found in the log: interrupts, disks that fail halfway, and answers cleared while they are in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pytest
from conftest import AddEndpoint, Con

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.engine import Engine
from fleming_sql.errors import StoreError
from fleming_sql.store.call_rows import CallTable
from fleming_sql.store.telemetry import CallLog
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, echo_chat
from fleming_sql.types import CallRecord

IDS = "select count(*), count(distinct databricks_request_id), count(distinct log_seq) from fleming.serving.calls"


def record(number: int, **values: Any) -> CallRecord:
    fixed: dict[str, Any] = {"client_request_id": None, "config_version": 1, "served_entity_id": None}
    flags = {"payload_logging": True, "usage_tracking": True, "usage_context": {}, "statement_id": None}
    given = {"databricks_request_id": f"call {number}", "endpoint_name": "chat", "requester": "ada"}
    hashed = {"request_time": Clock().now() + timedelta(seconds=number), "request_hash": f"{number:032x}"}
    return CallRecord(**{**fixed, **flags, **given, **hashed, **values})


T = TypeVar("T")


def log_of(con: Con, wrap: Callable[[CallTable], T]) -> tuple[CallLog, T]:
    """Return a log of its own on the store of `con`, with another way of writing, and that."""
    cursor = con.duckdb.cursor()
    cursor.execute("use fleming.main")
    log = CallLog(cursor, None)
    writer: Any = wrap(log._table)
    log._table = writer
    return log, writer


class Watched:
    """Writes, and notes on which thread."""

    def __init__(self, table: CallTable) -> None:
        self.table = table
        self.threads: list[threading.Thread] = []

    def write(self, first_seq: int, records: Sequence[CallRecord]) -> None:
        self.threads.append(threading.current_thread())
        self.table.write(first_seq, records)


class FailsLater:
    """Writes until the disk is full at its third row."""

    def __init__(self, table: CallTable) -> None:
        self.table = table
        self.written = 0
        self.is_full = True

    def write(self, first_seq: int, records: Sequence[CallRecord]) -> None:
        if self.is_full and self.written + len(records) > 2 and len(records) == 1:
            raise duckdb.IOException("disk full (simulated)")
        self.table.write(first_seq, records)
        self.written += len(records)


def test_ctrl_c_cannot_end_a_write_halfway(con: Con) -> None:
    """Python raises KeyboardInterrupt on the main thread only, so the log is written on another."""
    log, watched = log_of(con, Watched)
    log.add(record(1))
    log.flush()
    assert [thread is threading.main_thread() for thread in watched.threads] == [False]
    assert con.execute(IDS).fetchall() == [(1, 1, 1)]


def test_a_disk_that_fails_among_rows_that_are_written_one_by_one_doubles_none(con: Con) -> None:
    log, failing = log_of(con, FailsLater)
    for number in range(6):
        log.add(record(number, input_token_count=2**70 if number == 5 else number))
    with pytest.raises(StoreError, match="disk full"):
        log.flush()
    failing.is_full = False
    log.flush()
    assert con.execute(IDS).fetchall() == [(6, 6, 6)]


def test_a_tick_that_fails_is_followed_by_the_next() -> None:
    ticks: list[int] = []
    enough = threading.Event()

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            enough.set()
        raise StoreError("disk full (simulated)")

    async def nothing() -> None: ...

    engine = Engine(tick, tick_s=0.01)
    engine.call(nothing())
    assert enough.wait(10)
    engine.close(nothing)


def test_an_answer_that_is_cleared_while_a_statement_has_looked_it_up_does_not_come_back(
    tmp_path: Path, add_endpoint: AddEndpoint
) -> None:
    """The first row takes its time, and the second has found its answer in the log meanwhile."""
    version, arrived = ["v1"], threading.Event()

    def answer(received: Received) -> Reply:
        reply = chat_reply(version[0])
        if b'"first"' not in received.body:
            return reply
        arrived.set()
        return replace(reply, delay_s=0.5)

    path = tmp_path / "w.duckdb"
    ask = "select ai_query('chat', t, failOnError => false).result from (values ('first'), ('second')) v(t)"
    with MockModel(answer) as server:
        with fleming_sql.connect(path, user="ada") as con:
            add_endpoint(con, base_url=server.url, max_concurrency=1)
            con.execute("select ai_query('chat', 'second')").fetchall()
        with fleming_sql.connect(path, user="ada") as con:
            other = con.cursor()
            running = threading.Thread(target=lambda: other.execute(ask).fetchall())
            running.start()
            assert arrived.wait(10)
            assert con.execute("select ai_cache_clear('chat')").fetchall() == [(1,)]
            version[0] = "v2"
            running.join()
            assert con.execute("select ai_query('chat', 'second')").fetchall() == [("v2",)]


def test_a_bare_handle_sees_a_full_vector_at_once(tmp_path: Path, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as server, fleming_sql.connect(tmp_path / "w.duckdb") as con:
        add_endpoint(con, base_url=server.url, max_concurrency=1000)
        bare = con.duckdb
        bare.execute("select ai_query('chat', 'row ' || i) from range(2048) t(i)").fetchall()
        assert bare.execute("select count(*) from fleming.serving.calls").fetchall() == [(2048,)]


def test_a_foreign_file_in_the_journals_folder_is_left_alone(tmp_path: Path, add_endpoint: AddEndpoint) -> None:
    folder = tmp_path / "w.fleming.duckdb.journal"
    folder.mkdir()
    (folder / "²").write_text("a number to Python's isdigit")
    with MockModel(echo_chat) as server, fleming_sql.connect(tmp_path / "w.duckdb") as con:
        add_endpoint(con, base_url=server.url)
        con.execute("select ai_query('chat', 'one')").fetchall()
    assert [file.name for file in folder.iterdir()] == ["²"]
