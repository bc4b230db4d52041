"""A result is out only when its record is safe: killed processes, damaged journals, disks that are full."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint

import fleming_sql
from fleming_sql import Connection
from fleming_sql.errors import StoreDamaged
from fleming_sql.testing import MockModel, Received, Reply, echo_chat

JOB = """
import sys, fleming_sql
store, rows = sys.argv[1:3]
with fleming_sql.connect(gateway=store) as con:
    con.execute(f"select ai_query('chat', 'row ' || i) from range({rows}) t(i)").fetchall()
"""
LIMITED_JOB = """
import pathlib, resource, sys, fleming_sql
store, setting = sys.argv[1:3]
folder = pathlib.Path(store).parent
with fleming_sql.connect(gateway=store) as con:
    ask = "select ai_query('chat', 'row ' || i, cache => false) from range(100) t(i)"
    if setting:
        con.execute("insert into fleming.settings values ('on_log_failure', ?)", [setting])
    con.execute("select ai_query('chat', 'before')").fetchall()
    grown = max(file.stat().st_size for file in [*folder.rglob("*.wal"), *folder.rglob("*.ndjson")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (grown + 1000, resource.RLIM_INFINITY))
    for _ in range(2):
        try:
            print("answers:", len(con.execute(ask).fetchall()), flush=True)
        except Exception as error:
            print("failed:", str(error).replace(chr(10), " "), flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
WITHOUT_LIMITS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.duckdb"


def all_but_the_last(received: Received) -> Reply:
    """Answer all rows but number 49."""
    return Reply(hang=True) if b'"row 49"' in received.body else echo_chat(received)


def set_up(path: Path, add_endpoint: AddEndpoint, server: MockModel, **settings: str) -> None:
    with fleming_sql.connect(gateway=path) as con:
        add_endpoint(con, base_url=server.url, max_concurrency=1000)
        for setting in settings.items():
            con.execute("insert into fleming.settings values (?, ?)", setting)


def journal(path: Path) -> list[Path]:
    return sorted(path.with_name(f"{path.name}.journal").glob("*.ndjson"))


def logged(con: Connection) -> set[str]:
    rows = con.execute("select request->>'$.messages[0].content' from fleming.serving.inference").fetchall()
    assert len(rows) == len(set(rows)), "a call stands in the log twice"
    return {text for (text,) in rows}


def kill_with_one_under_way(path: Path, server: MockModel, rows: int) -> None:
    """Run a job whose last row gets no answer, and kill it when all others have been answered and noted."""
    job = subprocess.Popen([sys.executable, "-c", JOB, str(path), str(rows)])
    server.wait_until(lambda mock: mock.request_count == rows and mock.in_flight == 1, 60)
    while sum(file.read_bytes().count(b"\n") for file in journal(path)) < rows - 1:
        assert job.poll() is None
    job.send_signal(signal.SIGKILL)
    job.wait()


@pytest.fixture
def killed(path: Path, add_endpoint: AddEndpoint) -> Iterator[Path]:
    """A store whose process was killed when 49 of 50 rows had been answered and none had been handed out."""
    with MockModel(all_but_the_last) as server:
        set_up(path, add_endpoint, server)
        kill_with_one_under_way(path, server, 50)
    yield path


def test_what_was_answered_before_a_kill_is_in_the_log(killed: Path) -> None:
    with fleming_sql.connect(gateway=killed) as con:
        assert logged(con) == {f"row {i}" for i in range(49)}
        recovered = "select records, replayed, torn from fleming.serving.recoveries"
        assert con.execute(recovered).fetchall() == [(49, 49, 0)]


def test_a_journal_that_is_replayed_twice_adds_nothing(killed: Path) -> None:
    folder = killed.with_name(f"{killed.name}.journal")
    copy = killed.with_name("copy")
    shutil.copytree(folder, copy)
    fleming_sql.connect(gateway=killed).close()
    shutil.copytree(copy, folder, dirs_exist_ok=True)
    with fleming_sql.connect(gateway=killed) as con:
        assert len(logged(con)) == 49
        recovered = "select records, replayed, torn from fleming.serving.recoveries order by recovered_at"
        assert con.execute(recovered).fetchall() == [(49, 49, 0), (49, 0, 0)]


@pytest.mark.parametrize("damage", ["cut", "flip", "zeros", "garbage", "no line end", "another version"])
def test_damaged_records_are_skipped_and_counted_and_the_others_kept(killed: Path, damage: str) -> None:
    file = next(file for file in journal(killed) if file.stat().st_size)
    lines = file.read_bytes().splitlines(keepends=True)
    middle = lines[20]
    lines[20] = {
        "cut": middle[: len(middle) // 2] + b"\n",
        "flip": middle[:100] + bytes([middle[100] ^ 1]) + middle[101:],
        "zeros": bytes(len(middle)),
        "garbage": os.urandom(300).replace(b"\n", b" ") + b"\n",
        "no line end": middle.rstrip(b"\n"),
        "another version": b"00000000 {}\n",
    }[damage]
    file.write_bytes(b"".join(lines))
    lost = 2 if damage in ("zeros", "no line end") else 1  # without its end a line takes the next one along
    with fleming_sql.connect(gateway=killed) as con:
        assert len(logged(con)) == 49 - lost
        assert con.execute("select records, torn from fleming.serving.recoveries").fetchall() == [(49 - lost, 1)]
    assert [kept.name for kept in file.parent.iterdir()] == ["00000001.damaged"]


def test_a_journal_without_one_whole_record_does_not_keep_the_store_from_opening(killed: Path) -> None:
    file = next(file for file in journal(killed) if file.stat().st_size)
    file.write_bytes(os.urandom(10_000))
    with fleming_sql.connect(gateway=killed) as con:
        assert logged(con) == set()


def test_a_store_that_is_closed_leaves_no_journal(path: Path, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server)
        with fleming_sql.connect(gateway=path) as con:
            con.execute("select ai_query('chat', 'one')").fetchall()
            assert journal(path)
    assert not path.with_name(f"{path.name}.journal").exists()


def test_the_journal_is_nobody_elses_to_read(path: Path, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server)
        with fleming_sql.connect(gateway=path) as con:
            con.execute("select ai_query('chat', 'one')").fetchall()
            assert [file.stat().st_mode & 0o077 for file in journal(path)] == [0, 0]


def test_the_journal_holds_no_more_than_the_table_has_not(path: Path, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server)
        with fleming_sql.connect(gateway=path) as con:
            for run in range(4):
                con.execute(
                    f"select ai_query('chat', '{run}' || repeat('x', 9000) || i) from range(600) t(i)"
                ).fetchall()
            assert sum(file.stat().st_size for file in journal(path)) < 7e6
            assert con.execute("select count(*) from fleming.serving.inference").fetchall() == [(2400,)]


def test_a_journal_that_cannot_be_written_makes_results_wait_for_the_table(
    path: Path, add_endpoint: AddEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    path.with_name(f"{path.name}.journal").write_text("a file where the folder should be")
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server)
        with fleming_sql.connect(gateway=path) as con, caplog.at_level(logging.WARNING, "fleming_sql"):
            con.execute("select ai_query('chat', 'row ' || i) from range(3000) t(i)").fetchall()
            assert con.execute("select count(*) from fleming.serving.calls").fetchall() == [(3000,)]
    assert [r.message for r in caplog.records if "the journal cannot be written" in r.message]


def test_a_store_that_is_damaged_keeps_its_journal_for_the_copy_that_takes_its_place(killed: Path) -> None:
    copy = killed.read_bytes()
    killed.write_bytes(b"\0" * 5000)
    with pytest.raises(StoreDamaged, match="restore it from a copy"):
        fleming_sql.connect(gateway=killed)
    killed.with_name(f"{killed.name}.wal").unlink(missing_ok=True)
    killed.write_bytes(copy)
    with fleming_sql.connect(gateway=killed) as con:
        assert len(logged(con)) == 49


@WITHOUT_LIMITS
@pytest.mark.parametrize("setting", ["", "continue"])
def test_when_the_disk_is_full(path: Path, add_endpoint: AddEndpoint, setting: str) -> None:
    """A limit on the size of files stands in for a disk without room: writes fail in the same place."""
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server)
        done = subprocess.run(
            [sys.executable, "-c", LIMITED_JOB, str(path), setting], capture_output=True, text=True, timeout=60
        )
        first, second = done.stdout.splitlines()
        if setting == "continue":
            assert (first, second) == ("answers: 100", "answers: 100"), done.stdout + done.stderr
        else:
            assert first.startswith("failed:") and "could not be written" in first, done.stdout
            assert second.startswith("failed:")
            assert len(server.requests) == 101, "calls were sent that could not be logged"
    with fleming_sql.connect(gateway=path) as con:
        assert con.execute("select count(*) > 0 from fleming.serving.inference").fetchall() == [(True,)]


def test_with_durability_off_there_is_no_journal(path: Path, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server, durability="off")
        with fleming_sql.connect(gateway=path) as con:
            con.execute("select ai_query('chat', 'row ' || i) from range(50) t(i)").fetchall()
            assert not journal(path)
            assert len(logged(con)) == 50


def test_with_durability_power_a_vector_that_is_out_before_the_table_has_it_is_on_the_disk(
    path: Path, add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real: Any = getattr(os, "fdatasync", os.fsync)

    def sync(file: int) -> None:
        synced.append(file)
        real(file)

    monkeypatch.setattr(os, "fdatasync", sync, raising=False)
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server, durability="power")
        with fleming_sql.connect(gateway=path) as con:
            con.execute("select ai_query('chat', 'row ' || i) from range(2048) t(i)").fetchall()
            assert 1 <= len(synced) <= 2, "once for each of the journal's files that has records"
            assert len(logged(con)) == 2048


def test_a_full_vector_is_in_the_log_for_the_next_statement(path: Path, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server)
        with fleming_sql.connect(gateway=path) as con:
            for vectors in (1, 2):
                con.execute(f"select ai_query('chat', 'row ' || i) from range({vectors * 2048}) t(i)").fetchall()
                [(count,)] = con.execute(
                    "select count(*) from fleming.serving.calls "
                    "where statement_id = (select max_by(statement_id, log_seq) from fleming.serving.calls)"
                ).fetchall()
                assert count == vectors * 2048


def test_a_full_vector_of_a_bare_connection_is_in_the_log_at_once(path: Path, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as server:
        set_up(path, add_endpoint, server)
        con = fleming_sql.attach(duckdb.connect(), gateway=path)
        con.execute("select ai_query('chat', 'row ' || i) from range(2048) t(i)").fetchall()
        assert con.execute("select count(*) from fleming.serving.calls").fetchall() == [(2048,)]
        fleming_sql.detach(con)
        con.close()
