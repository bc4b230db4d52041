"""The export to Delta tables: each record there once, whatever becomes of the process, and readable by anybody."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pytest
from conftest import AddEndpoint
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from hypothesis import given
from hypothesis import strategies as st

import fleming_sql
from benchmarks.delta_export import run as run_processes
from fleming_sql import Connection
from fleming_sql.errors import CredentialError, ExportError
from fleming_sql.maintenance import delta_tables
from fleming_sql.maintenance.delta import resume_after
from fleming_sql.store import exports
from fleming_sql.store.exports import ENTITIES, LOG_TABLES, PARTITIONS, Progress
from fleming_sql.testing import MockModel, Received, Reply, echo_chat, error_reply

ROOT: Final = Path(__file__).resolve().parent.parent
Open = Callable[..., Connection]
KILLED: Final = """
import os, signal, sys
import fleming_sql
from fleming_sql.maintenance.delta_tables import DeltaTables

store, location, method, moment = sys.argv[1:]
original = getattr(DeltaTables, method)

def die(*arguments, **named):
    if moment == "after":
        original(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)

con = fleming_sql.connect(gateway=store)
con.execute("select ai_query('chat', 'killed ' || n, cache => false) from range(7) as r(n)").fetchall()
setattr(DeltaTables, method, die)
con.execute("insert into fleming.settings values ('delta_location', ?)", [location])
con.close()
"""


@pytest.fixture
def model() -> Iterator[MockModel]:
    """A model whose answer to `bad` is an error."""

    def reply(received: Received) -> Reply:
        return error_reply(400, "no") if b"bad" in received.body else echo_chat(received)

    with MockModel(reply) as server:
        yield server


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Where the tables go."""
    return tmp_path / "lake"


@pytest.fixture
def open_store(tmp_path: Path, lake: Path, model: MockModel, add_endpoint: AddEndpoint) -> Open:
    """Open a store in a file, made at the first time: with the endpoint `chat`, and an export when it is closed."""

    def open_named(name: str = "store", location: Path | str | None = lake) -> Connection:
        path = tmp_path / f"{name}.duckdb"
        is_new = not path.exists()
        con = fleming_sql.connect(gateway=path, user="ada")
        if is_new:
            add_endpoint(con, base_url=model.url, max_retries=0)
            # After the first export, nothing but closing exports by itself, so that a test says when.
            con.execute(
                "insert into fleming.settings values ('delta_every_seconds', '3600'), ('delta_compact_hours', '0'), "
                "('delta_vacuum_hours', '0')"
            )
            if location is not None:
                move(con, location)
        return con

    return open_named


def move(con: Connection, location: Path | str) -> None:
    con.execute("insert or replace into fleming.settings values ('delta_location', ?)", [str(location)])


def ask(con: Connection, *prompts: str) -> None:
    """Make calls; those that fail are logged too."""
    con.execute(
        "select ai_query('chat', p, failOnError => false, cache => false, usageContext => map {'team': 'a'}) "
        "from (select unnest(?) as p)",
        [list(prompts)],
    ).fetchall()


def export(con: Connection, task: str = "delta_export") -> str:
    """Do it now, as the maintenance thread does it in its time."""
    return con._session.upkeep.worker.run_now(task)


def ids(con: Connection, source: str = "serving.inference") -> list[str]:
    found = con.execute(f"select databricks_request_id from fleming.{source} order by all").fetchall()
    return [name for (name,) in found]


def exported(lake: Path, table: str = "inference") -> list[str]:
    """Return the ids of the calls in a Delta table, as a reader sees them that knows nothing of this package."""
    column = DeltaTable(lake / table).to_pyarrow_table(columns=["databricks_request_id"]).column(0)
    return sorted(map(str, column.to_pylist()))


@pytest.mark.parametrize("table", PARTITIONS)
def test_an_exported_table_equals_its_view_row_by_row(open_store: Open, lake: Path, table: str) -> None:
    with open_store(location=None) as con:
        ask(con, "a", "b", "bad", "c")
        decision = (
            "{'guardrail': 'g', 'phase': 'input', 'kind': 'k', 'action': 'block', 'reason': 'r', 'entities': '[]', "
            "'duration_ms': 0.5}"
        )
        con.execute(f"update fleming.serving.calls set guardrail_results = [{decision}, {decision}]")
        move(con, lake)  # only now: the first export comes as soon as there is a place for it
        export(con)
        own = [row[:2] for row in con.execute(f"describe fleming.serving.{table}").fetchall()]
        columns = ", ".join(name for name, _ in own)
        everything = con.execute(f"select {columns} from fleming.serving.{table} order by all").fetchall()

        read = con.execute(f"select {columns} from fleming.lake.{table} order by all").fetchall()
        types = [row[:2] for row in con.execute(f"describe fleming.lake.{table}").fetchall()]

    assert len(everything) == {"served_entities": 1, "guardrail_results": 8}.get(table, 4)
    assert read == everything
    assert types[: len(own)] == own or set(own) <= set(types)
    assert DeltaTable(lake / table).to_pyarrow_table().num_rows == len(everything)
    assert DeltaTable(lake / table).metadata().partition_columns == [PARTITIONS[table]]


def test_times_are_instants_to_other_readers(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        ask(con, "a")
        [(at,)] = con.execute("select request_time from fleming.serving.inference").fetchall()

    [row] = DeltaTable(lake / "inference").to_pyarrow_table(columns=["request_time"]).to_pylist()

    assert row["request_time"].utcoffset().total_seconds() == 0
    assert row["request_time"].replace(tzinfo=None) == at


def test_the_tables_need_no_feature_that_old_readers_lack(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        ask(con, "a")

    for table in ("inference", ENTITIES):
        assert DeltaTable(lake / table).protocol().min_reader_version == 1


@pytest.mark.parametrize("table", PARTITIONS)
def test_before_an_export_the_tables_are_there_and_empty(open_store: Open, table: str) -> None:
    with open_store(location=None) as con:
        view = [row[:2] for row in con.execute(f"describe fleming.serving.{table}").fetchall()]
        relation = con.sql(f"from fleming.lake.{table}")

        assert set(view) <= set(zip(relation.columns, map(str, relation.types), strict=True))
        assert relation.fetchall() == []


def test_a_day_is_read_from_its_own_files(open_store: Open, lake: Path) -> None:
    with open_store(location=None) as con:
        ask(con, "a")
        con.execute("update fleming.serving.calls set request_time = request_time - interval 1 day")
        move(con, lake)  # only now, as above
        export(con)
        ask(con, "b")
        export(con)

        plan = str(
            con.execute(
                "explain analyze select count(*) from fleming.lake.inference where request_date = current_date - 1"
            ).fetchall()
        )

    assert "Scanning Files: 1/2" in plan or "Total Files Read: 1" in plan


def test_each_record_is_exported_once_over_restarts(open_store: Open, lake: Path) -> None:
    for prompt in "abc":
        with open_store() as con:
            ask(con, prompt, prompt)
            export(con)
            ask(con, prompt)

    with open_store() as con:
        assert exported(lake) == ids(con)
        assert len(ids(con)) == 9


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("method", ["append", "merge"])
def test_a_process_killed_while_it_exports_loses_and_doubles_nothing(
    open_store: Open, tmp_path: Path, lake: Path, method: str, moment: str
) -> None:
    with open_store(location=None) as con:
        ask(con, "first")
    arguments = [str(tmp_path / "store.duckdb"), str(lake), method, moment]

    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, timeout=60, check=False)

    assert done.returncode == -9
    with open_store() as con:
        export(con)
        assert len(ids(con)) == 8
        for table in ("inference", "attempts", "endpoint_usage"):
            assert exported(lake, table) == ids(con)
        assert con.execute("select count(*) from fleming.lake.served_entities").fetchall() == [(1,)]


def test_a_batch_that_was_written_and_not_marked_is_not_written_again(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        ask(con, "a", "b")
    with open_store() as con:
        con.execute("update fleming.serving.exports set exported_at = null")
        ask(con, "c")
        export(con)

        assert exported(lake) == ids(con)
        unmarked = con.execute("select count(*) from fleming.serving.exports where exported_at is null").fetchall()
        assert unmarked == [(0,)]


def test_what_was_exported_is_known_when_the_log_of_the_table_was_cleaned_up(open_store: Open, lake: Path) -> None:
    for name in ("store", "another"):
        with open_store(name) as con:
            ask(con, "a")
    DeltaTable(lake / "inference").create_checkpoint()
    for commit in sorted((lake / "inference" / "_delta_log").glob("*.json"))[:-1]:
        commit.unlink()

    with open_store() as con:
        con.execute("delete from fleming.serving.exports")
        ask(con, "b")
        export(con)

        own = "lake.inference where store_id = (select store_id from fleming.serving.store)"
        assert ids(con, own) == ids(con)


@pytest.mark.parametrize("error", [OSError, CommitFailedError])
def test_a_try_that_failed_after_its_commit_is_not_repeated(
    open_store: Open, lake: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    failed: list[bool] = []

    def write_and_fail(*arguments: Any, **named: Any) -> None:
        write_deltalake(*arguments, **named)
        if not failed:
            failed.append(True)
            raise error("the connection broke")

    monkeypatch.setattr(delta_tables, "write_deltalake", write_and_fail)
    with open_store() as con:
        ask(con, "a")
        with suppress(ExportError):  # a commit that failed is tried again at once
            export(con)

        export(con)

        assert failed
        assert exported(lake) == ids(con)


def test_a_large_backlog_goes_in_batches(open_store: Open, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "BATCH_CALLS", 7)
    with open_store() as con:
        ask(con, *"abcdefghijklmnopqrst")

        export(con)

        batches = con.execute(
            "select from_seq, to_seq, rows from fleming.serving.exports where table_name = 'attempts' order by all"
        ).fetchall()
        assert batches == [(1, 7, 7), (8, 14, 7), (15, 20, 6)]
        assert exported(lake, "attempts") == ids(con)


def test_a_batch_holds_so_many_bytes_of_bodies_and_at_least_one_call(
    open_store: Open, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "BATCH_BYTES", 5_000)
    with open_store() as con:
        ask(con, *("x" * 1_000 for _ in range(4)), "y" * 10_000, "z")

        export(con)

        sizes = con.execute(
            "select rows from fleming.serving.exports where table_name = 'inference' order by to_seq"
        ).fetchall()
        assert max(sizes) == (2,)
        assert exported(lake) == ids(con)


def test_two_stores_share_one_place(open_store: Open, lake: Path) -> None:
    for name in ("one", "two", "one"):
        with open_store(name) as con:
            ask(con, name)

    with open_store("one") as one, open_store("two") as two:
        assert exported(lake) == sorted(ids(one) + ids(two))
        by_store = "select store_id, count(*) from fleming.lake.inference group by 1"
        own = "select store_id, (select count(*) from fleming.serving.inference) from fleming.serving.store"
        assert sorted(one.execute(by_store).fetchall()) == sorted(
            one.execute(own).fetchall() + two.execute(own).fetchall()
        )
        assert one.execute("select count(*) from fleming.lake.served_entities").fetchall() == [(2,)]


def test_a_table_of_an_older_version_gets_the_new_columns(open_store: Open, lake: Path) -> None:
    older = pa.table(
        {
            "databricks_request_id": ["old"],
            "request_date": pa.array([0], pa.date32()),
            "request_time": pa.array([0], pa.timestamp("us", "UTC")),
            "store_id": ["another"],
        }
    )
    write_deltalake(lake / "inference", older, partition_by=["request_date"])

    with open_store() as con:
        ask(con, "a")
        export(con)

        rows = con.execute("select requester, endpoint_name from fleming.lake.inference order by all").fetchall()
        assert rows == [("ada", "chat"), (None, None)]


def test_what_a_newer_version_added_stays_and_can_be_read(open_store: Open, lake: Path) -> None:
    with open_store("one") as con:
        ask(con, "a")
    newer = pa.table(
        {
            "databricks_request_id": ["new"],
            "request_date": pa.array([0], pa.date32()),
            "mood": ["good"],
            "mood_time": pa.array([0], pa.timestamp("us", "UTC")),
        }
    )
    write_deltalake(lake / "inference", newer, mode="append", schema_mode="merge")

    with open_store("two") as con:
        ask(con, "b")
        export(con)

        moods = con.execute("select mood, mood_time from fleming.lake.inference order by all").fetchall()
        assert [mood for mood, _ in moods] == ["good", None, None]
        assert str(moods[0][1]) == "1970-01-01 00:00:00"


def test_another_place_gets_the_log_from_its_beginning(open_store: Open, tmp_path: Path, lake: Path) -> None:
    with open_store() as con:
        ask(con, "a")
        export(con)
        move(con, tmp_path / "other")
        ask(con, "b")
        export(con)
        move(con, lake)
        ask(con, "c")
        export(con)

        assert exported(lake) == ids(con)
        assert len(exported(tmp_path / "other")) == 2


def test_the_same_place_by_another_name_gets_nothing_twice(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        ask(con, "a", "b")
        export(con)
        move(con, f"{lake}/")
        ask(con, "c")
        export(con)

        assert exported(lake) == ids(con)


def test_a_store_restored_from_a_copy_is_not_mixed_with_what_it_exported(
    open_store: Open, tmp_path: Path, lake: Path
) -> None:
    with open_store() as con:
        ask(con, "a")
    shutil.copy(tmp_path / "store.duckdb", tmp_path / "copy.duckdb")
    with open_store() as con:
        ask(con, "b")

    with open_store("copy") as con:
        ask(con, "c")
        with pytest.raises(ExportError, match=r"restored from a copy.*another place"):
            export(con)
        move(con, tmp_path / "other")
        export(con)

        assert exported(tmp_path / "other") == ids(con)
    assert len(exported(lake)) == 2


def test_a_copy_that_exports_beside_the_store_is_told_and_loses_nothing(
    open_store: Open, tmp_path: Path, lake: Path
) -> None:
    with open_store() as con:
        ask(con, "a")
    shutil.copy(tmp_path / "store.duckdb", tmp_path / "copy.duckdb")
    with open_store() as con:
        ask(con, "b")
        export(con)
        other = shutil.copy(tmp_path / "copy.duckdb", tmp_path / "aside.duckdb")
        con.execute("checkpoint fleming")
        shutil.copy(tmp_path / "store.duckdb", other)
        with open_store("aside") as copy:
            ask(copy, "c")
            export(copy)
        there = exported(lake)

        ask(con, "d", "e", "f")
        for _ in range(2):  # and it stays so, though the table is behind what was to be written
            with pytest.raises(ExportError, match="a copy of it exports there too"):
                export(con)

        assert exported(lake) == there
        move(con, tmp_path / "other")
        export(con)
        assert exported(tmp_path / "other") == ids(con)


def test_a_batch_that_a_copy_writes_at_the_same_moment_is_not_taken_for_ours(lake: Path) -> None:
    rows = pa.table({"n": [1], "day": ["x"]})
    first, second = (delta_tables.DeltaTables(str(lake), {}, (), lambda _: False) for _ in range(2))
    first.append("t", rows, "day", "app", 1, following=0)
    find = second._find

    def find_and_be_late(table: str) -> DeltaTable | None:
        found = find(table)
        second._find = find  # type: ignore[method-assign]
        first.append("t", rows, "day", "app", 2, following=1)
        return found

    second._find = find_and_be_late  # type: ignore[method-assign]
    with pytest.raises(exports.CopiedStoreError):
        second.append("t", rows, "day", "app", 2, following=1)

    assert DeltaTable(lake / "t").to_pyarrow_table().num_rows == 2


@pytest.mark.parametrize("folder", ["la ke", "ü", "a#b", "a?b", "l*e", "{x,y}", "q'u", "+"])
@pytest.mark.parametrize("is_url", [False, True])
def test_a_folder_of_any_name_can_be_read(open_store: Open, tmp_path: Path, folder: str, is_url: bool) -> None:
    place = tmp_path / folder
    with open_store(location=place) as con:
        ask(con, "a")
        export(con)
        if is_url:  # config_problems refuses some of these, and they work all the same
            move(con, place.as_uri())

        assert ids(con, "lake.inference") == ids(con)


def test_a_place_that_deltalake_panics_at_is_an_error_like_others(open_store: Open, tmp_path: Path) -> None:
    with open_store(location=tmp_path / "la[1]ke") as con:
        ask(con, "a")

        with pytest.raises(ExportError, match="cannot be used"):
            export(con)

        con.execute("delete from fleming.settings where name = 'delta_location'")


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/lake?sig=hush%2Bhush",
        "s3://user:hush+hush@bucket/lake",
        "s3://hush+hush@bucket/lake",
    ],
)
def test_an_error_holds_no_secret_of_the_location(location: str) -> None:
    options = {"aws_endpoint": "http://127.0.0.1:9", "aws_region": "r", "max_retries": "0", "allow_http": "true"}
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    tables = delta_tables.DeltaTables(location, {**options, **keys}, (), lambda _: False)

    with pytest.raises(ExportError) as caught:
        tables.written("inference", "app")

    assert "hush" not in str(caught.value)


def test_an_object_store_that_hangs_has_a_deadline_unless_the_options_name_another() -> None:
    def options(location: str) -> dict[str, str]:
        return delta_tables.DeltaTables(location, {"TIMEOUT": "5s"}, (), lambda _: False)._options

    assert options("s3://bucket/lake") == {
        "TIMEOUT": "5s",
        "connect_timeout": "5s",
        "max_retries": "3",
        "retry_timeout": "60s",
    }
    assert options("/lake") == options("file:///lake") == {"TIMEOUT": "5s"}


def test_tables_that_were_deleted_are_exported_again(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        ask(con, "a")
        export(con)
        shutil.rmtree(lake)
        ask(con, "b")
        with pytest.raises(ExportError, match="deleted or set back"):
            export(con)

        export(con)

        assert exported(lake) == ids(con)


def test_a_deleted_endpoint_changes_its_entities_where_they_stand(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        ask(con, "a")
        export(con)
        con.execute("delete from fleming.endpoints")
        ask(con, "b")
        export(con)

        rows = con.execute("select endpoint_delete_time is not null from fleming.lake.served_entities").fetchall()
        assert rows == [(True,)]


def test_a_place_that_cannot_be_written_does_not_touch_the_calls(
    open_store: Open, tmp_path: Path, lake: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with open_store(location=tmp_path / "file") as con:
        ask(con, "a")
        with pytest.raises(ExportError):
            export(con)

        [(error, calls)] = con.execute(
            "select last_error, (select count(*) from fleming.serving.inference where status_code = 200) "
            "from fleming.serving.maintenance where task = 'delta_export'"
        ).fetchall()
        assert str(tmp_path / "file") in error
        assert "row" in error
        assert "delta_location" in error
        assert calls == 1
        move(con, lake)

    with open_store() as con:
        assert exported(lake) == ids(con)


def test_without_the_package_the_error_says_what_to_install(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store() as con:
        ask(con, "a")
        monkeypatch.delitem(sys.modules, "fleming_sql.maintenance.delta_tables", raising=False)
        monkeypatch.setitem(sys.modules, "deltalake", None)

        with pytest.raises(ExportError, match=r"pip install 'fleming-sql\[delta\]'"):
            export(con)
        with pytest.raises(duckdb.Error, match=r"pip install 'fleming-sql\[delta\]'"):
            con.execute("from fleming.lake.inference").fetchall()
        monkeypatch.undo()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param('{"allow_http": "{{secrets/lake/key}}"}', id="by reference"),
        pytest.param('{"aws_secret_access_key": "hush-hush", "allow_http": "hush-hush"}', id="in plain text"),
    ],
)
def test_an_error_holds_no_secret(open_store: Open, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    monkeypatch.setenv("BUCKET_KEY", "hush-hush")
    with open_store(location="s3://bucket/lake") as con:
        con.execute("insert into fleming.credentials values ('lake/key', 'env', 'BUCKET_KEY')")
        con.execute("insert into fleming.settings values ('delta_storage_options', ?)", [options])
        ask(con, "a")

        with pytest.raises(ExportError, match='failed to parse "…" as boolean') as caught:
            export(con)

        assert "delta_storage_options" in str(caught.value)
        con.execute("delete from fleming.settings where name = 'delta_location'")


def test_a_secret_that_is_missing_is_named(open_store: Open) -> None:
    with open_store() as con:
        con.execute(
            """insert into fleming.settings values ('delta_storage_options', '{"k": "{{secrets/lake/key}}"}')"""
        )
        ask(con, "a")

        with pytest.raises(CredentialError, match="lake/key"):
            export(con)
        con.execute("delete from fleming.settings where name = 'delta_location'")


def test_compaction_makes_one_file_of_many_and_keeps_all_rows(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        for prompt in "abcd":
            ask(con, prompt)
            export(con)
        assert len(DeltaTable(lake / "inference").file_uris()) == 4

        export(con, "delta_compaction")

        assert len(DeltaTable(lake / "inference").file_uris()) == 1
        assert exported(lake) == ids(con)
        assert ids(con, "lake.inference") == ids(con)


def test_compaction_waits_its_hours_over_restarts_too(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        con.execute("update fleming.settings set value = '24' where name = 'delta_compact_hours'")
        ask(con, "a")
        export(con)
        export(con, "delta_compaction")
    with open_store() as con:
        ask(con, "b")
        export(con)

        export(con, "delta_compaction")

        assert len(DeltaTable(lake / "inference").file_uris()) == 2


def test_vacuum_removes_files_that_are_old_enough_and_no_rows(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        for prompt in "ab":
            ask(con, prompt)
            export(con)
        export(con, "delta_compaction")
        DeltaTable(lake / "inference").alter.set_table_properties(
            {"delta.deletedFileRetentionDuration": "interval 0 hours"}
        )
        con.execute("update fleming.settings set value = '0.001' where name = 'delta_vacuum_hours'")
        files = len(list((lake / "inference").rglob("*.parquet")))

        with pytest.raises(ExportError, match="delta_vacuum_hours"):
            export(con, "delta_vacuum")  # the other tables keep their files for a week

        assert len(list((lake / "inference").rglob("*.parquet"))) == files - 2
        assert exported(lake) == ids(con)


def test_vacuum_leaves_what_readers_may_still_need(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        for prompt in "ab":
            ask(con, prompt)
            export(con)
        export(con, "delta_compaction")
        files = sorted(lake.rglob("*.parquet"))
        con.execute("update fleming.settings set value = '168' where name = 'delta_vacuum_hours'")

        export(con, "delta_vacuum")

        assert sorted(lake.rglob("*.parquet")) == files


def test_nothing_is_due_without_a_place(open_store: Open) -> None:
    with open_store(location=None) as con:
        due = con.execute(
            "select task from fleming.serving.maintenance where every_s is not null and task like 'delta%'"
        ).fetchall()

    assert due == []


def test_the_maintenance_thread_exports_by_itself(open_store: Open, lake: Path) -> None:
    with open_store() as con:
        con.execute("update fleming.settings set value = '0.1' where name = 'delta_every_seconds'")
        ask(con, "a")
        worker = con._session.upkeep.worker

        worker.wake("delta_export")
        while not con.execute("select 1 from fleming.serving.exports where exported_at is not null").fetchall():
            assert worker.started

        assert exported(lake, "inference") == ids(con)


@given(st.lists(st.sampled_from(["log", "note", "write", "mark", "restart"]), max_size=40))
def test_wherever_a_process_is_killed_each_call_is_exported_once(steps: list[str]) -> None:
    log, table = 0, list[int]()
    notes = dict[int, bool]()
    written: int | None = None
    state: int | None = None
    batch: int | None = None
    for step in [*steps, "restart", "log", "note", "write", "mark"]:
        if step == "log":
            log += 1
        elif step == "restart" or state is None:
            done = max((last for last, marked in notes.items() if marked), default=0)
            state = resume_after(Progress(max(notes, default=None), done, done), written, log)
            assert state is not None
            notes = {last: True for last in notes if last <= state}
            batch = None
        elif step == "note" and batch is None and state < log:
            batch = log
            notes[batch] = False
        elif step == "write" and batch is not None and (written or 0) < batch:
            table += range(state + 1, batch + 1)
            written = batch
        elif step == "mark" and batch is not None and written == batch:
            notes[batch] = True
            state, batch = batch, None

    assert table == list(range(1, log + 1))


def test_all_tables_of_the_log_are_exported() -> None:
    assert set(PARTITIONS) == {*LOG_TABLES, ENTITIES}


@pytest.mark.timeout(300)  # each process imports and opens its store, on however many cores there are
def test_four_processes_at_once_two_of_them_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    outcome = run_processes(tmp_path, seconds=2, kills_each=1)

    assert outcome.kills == 2
    assert outcome.rows > 0
    assert +outcome.missing == +outcome.doubled == +outcome.strange == Counter()
