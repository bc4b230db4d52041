"""Bodies of logged calls are packed when there is time, and nobody who reads the log can tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import AddEndpoint, Con

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.maintenance.packing import PATIENCE_S, Packing
from fleming_sql.store.packing import LogPacker
from fleming_sql.testing import MockModel, echo_chat
from fleming_sql.types import Settings

ASK = "select ai_query('chat', i || ' ' || repeat('words ', 200)) from range({}) t(i)"
BODIES = "select log_seq, request, response from fleming.serving.inference order by log_seq"
UNPACKED = (
    "select count(*) filter (where request is not null or response is not null), count(packed_request), "
    "count(packed_response) from fleming.serving.calls"
)


@pytest.fixture
def server() -> Iterator[MockModel]:
    with MockModel(echo_chat) as server:
        yield server


@pytest.fixture
def stored(tmp_path: Path, server: MockModel, add_endpoint: AddEndpoint) -> Iterator[Con]:
    """A store in a file with 3,000 calls."""
    with fleming_sql.connect(tmp_path / "w.duckdb", user="ada") as con:
        con._session.upkeep.worker.close()  # the tests do the packing themselves
        add_endpoint(con, base_url=server.url)
        con.execute(ASK.format(3000)).fetchall()
        yield con


def pack(con: Con) -> str:
    return con._session.upkeep.worker.run_now("packing")


def rows(con: Con, sql: str) -> list[Any]:
    found: list[Any] = con.execute(sql).fetchall()
    return found


def test_packed_bodies_read_as_they_were(stored: Con) -> None:
    before = rows(stored, BODIES)
    assert pack(stored) == "the bodies of 3000 calls packed"
    assert rows(stored, BODIES) == before
    assert rows(stored, UNPACKED) == [(0, 3000, 3000)]


def test_packing_twice_finds_nothing(stored: Con) -> None:
    pack(stored)
    assert pack(stored) == "the bodies of 0 calls packed"


def test_what_is_logged_after_a_packing_is_packed_by_the_next(stored: Con) -> None:
    pack(stored)
    stored.execute("select ai_query('chat', 'another')").fetchall()
    assert pack(stored) == "the bodies of 1 calls packed"


def test_a_packed_answer_is_given_again(stored: Con, server: MockModel, tmp_path: Path) -> None:
    pack(stored)
    stored.close()
    with fleming_sql.connect(tmp_path / "w.duckdb", user="ada") as con:
        con.execute(ASK.format(3000)).fetchall()
    assert len(server.requests) == 3000


def test_packing_frees_half_of_the_room_of_the_log_and_more(stored: Con, tmp_path: Path) -> None:
    used = "select used_blocks from pragma_database_size() where database_name = 'fleming'"
    with fleming_sql.connect(tmp_path / "empty.duckdb", user="ada") as con:
        con.execute("checkpoint fleming")
        [(empty,)] = rows(con, used)
    stored.execute("checkpoint fleming")
    [(before,)] = rows(stored, used)
    pack(stored)
    for _ in range(2):  # the first lets go of what the second frees
        stored.execute("insert or replace into fleming.settings values ('retention_days', '1')")
        stored.execute("checkpoint fleming")
    [(after,)] = rows(stored, used)
    assert after - empty < (before - empty) / 2


def test_a_call_without_bodies_stays_without(stored: Con) -> None:
    stored.execute("update fleming.endpoints set payload_logging = false")
    stored.execute("select ai_query('chat', 'secret')").fetchall()
    pack(stored)
    assert rows(stored, BODIES)[-1][1:] == (None, None)


class SetClock(Clock):
    """A clock that is set by hand."""

    at = 1000.0

    def monotonic(self) -> float:
        return self.at


def test_it_waits_for_calls_to_end_but_not_for_ever(stored: Con) -> None:
    def open_cursor() -> Any:
        cursor = stored.duckdb.cursor()
        cursor.execute("use fleming.main")
        return cursor

    busy, clock = [True], SetClock()
    packing = Packing(LogPacker(open_cursor), lambda: busy[0], clock)
    assert packing.run(Settings()) == "the bodies of 0 calls packed"
    assert packing.every_s(Settings()) == 1
    clock.at += PATIENCE_S
    assert packing.run(Settings()) == "the bodies of 2048 calls packed", "a little beside the calls"
    busy[0] = False
    assert packing.run(Settings()) == "the bodies of 952 calls packed"
    assert packing.every_s(Settings()) == 600


def test_a_store_in_memory_has_nothing_to_pack(con: Con) -> None:
    tasks = rows(con, "select task from fleming.serving.maintenance")
    assert ("packing",) not in tasks and ("compaction",) in tasks
