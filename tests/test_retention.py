"""How long and how large the log stays: settings retention_days and retention_rows, and what never goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import Con, Serve
from hypothesis import given, settings
from hypothesis import strategies as st

import fleming_sql
from fleming_sql.store.exports import LOG_TABLES
from fleming_sql.store.retention import LogTrimmer
from fleming_sql.testing import MockModel, Reply, echo_chat
from fleming_sql.types import Settings

NOW = datetime(2026, 11, 21, 12)
PLACE = "/lake"
_INSERT = """
insert into fleming.serving.calls by name
select
    unnest($seqs) as log_seq, uuid()::varchar as databricks_request_id, unnest($times) as request_time,
    'chat' as endpoint_name, 'ada' as requester, uuid() as request_hash, true as payload_logging,
    true as usage_tracking, 200 as status_code, 1 as execution_duration_ms, 0 as queue_ms, 0 as limit_wait_ms,
    0 as overhead_us, false as cache_hit, false as tokens_estimated, 1 as input_character_count,
    1 as output_character_count, false as request_streaming, repeat(md5(random()::varchar), 20) as response
"""


def log(con: Any, *seqs: int, days_ago: list[float] | None = None) -> None:
    """Put calls into the log, by their numbers and how long ago they were made."""
    now = datetime.now(UTC).replace(tzinfo=None)
    times = [now - timedelta(days=days) for days in days_ago or [0.0] * len(seqs)]
    con.execute(_INSERT, {"seqs": list(seqs), "times": times})


def logged(con: Any) -> list[int]:
    return [seq for (seq,) in con.execute("select log_seq from fleming.serving.calls order by log_seq").fetchall()]


def setting(con: Any, **values: Any) -> None:
    for name, value in values.items():
        con.execute("insert or replace into fleming.settings values (?, ?)", [name, str(value)])


def run(con: Con, task: str = "retention") -> str:
    return con._session.upkeep.worker.run_now(task)


def exported(con: Any, up_to: int, tables: tuple[str, ...] = LOG_TABLES, place: str = PLACE, done: bool = True) -> None:
    for table in tables:
        con.execute(
            "insert into fleming.serving.exports (table_name, location, from_seq, to_seq, exported_at) "
            "values (?, ?, 1, ?, ?)",
            [table, place, up_to, NOW if done else None],
        )


@contextmanager
def trimmer(con: Con, chunk: int) -> Iterator[LogTrimmer]:
    """Trim the log of `con` in steps of another size."""
    cursor = con.duckdb.cursor()
    cursor.execute("use fleming.main")
    yield LogTrimmer(lambda: cursor, chunk)
    cursor.close()


def test_by_default_everything_stays(con: Con) -> None:
    log(con, 1, 2, days_ago=[4000, 1])

    assert con._session.upkeep.worker.report(Settings()) != []
    assert run(con) == "0 calls removed from the log"
    assert logged(con) == [1, 2]


def test_retention_rows_keeps_the_newest(con: Con) -> None:
    log(con, *range(1, 11))
    setting(con, retention_rows=3)

    assert run(con) == "7 calls removed from the log"
    assert logged(con) == [8, 9, 10]


def test_more_than_there_can_be_keeps_all(con: Con) -> None:
    log(con, 1, 2, 3)
    setting(con, retention_rows=1e300, retention_days=1e300)

    assert run(con) == "0 calls removed from the log"


def test_gaps_in_the_numbers_do_not_count_as_rows(con: Con) -> None:
    log(con, 1, 2, 50_000, 50_001, 900_000)
    setting(con, retention_rows=3)

    run(con)

    assert logged(con) == [50_000, 50_001, 900_000]


def test_as_many_rows_as_are_kept_all_stay(con: Con) -> None:
    log(con, 1, 2, 3)
    setting(con, retention_rows=3)

    run(con)

    assert logged(con) == [1, 2, 3]


def test_retention_days_removes_what_is_older(con: Con) -> None:
    log(con, 1, 2, 3, 4, days_ago=[30, 7.01, 6.99, 0])
    setting(con, retention_days=7)

    run(con)

    assert logged(con) == [3, 4]


def test_a_late_row_of_an_old_call_goes_and_the_younger_before_it_stay(con: Con) -> None:
    log(con, 1, 2, 3, days_ago=[1, 30, 1])
    setting(con, retention_days=7)

    run(con)

    assert logged(con) == [1, 3]


def test_the_newest_row_stays_however_old_so_that_numbers_go_on(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        log(con, 1, 2, 3, days_ago=[30, 30, 30])
        setting(con, retention_days=7)
        run(con)
        left = logged(con)

    assert left == [3]


def test_both_settings_hold_together(con: Con) -> None:
    log(con, 1, 2, 3, 4, days_ago=[30, 1, 1, 1])
    setting(con, retention_days=7, retention_rows=2)

    run(con)

    assert logged(con) == [3, 4]


def test_what_is_not_exported_yet_stays(con: Con) -> None:
    log(con, *range(1, 11))
    exported(con, 4)
    setting(con, retention_rows=2, delta_location=PLACE)

    run(con)

    assert logged(con) == [5, 6, 7, 8, 9, 10]


def test_the_table_that_is_behind_counts(con: Con) -> None:
    log(con, *range(1, 11))
    exported(con, 9, LOG_TABLES[1:])
    exported(con, 3, LOG_TABLES[:1])
    setting(con, retention_rows=1, delta_location=PLACE)

    run(con)

    assert logged(con) == [4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    "notes",
    [{"tables": LOG_TABLES[1:]}, {"place": "/another"}, {"done": False}],
    ids=["one table never", "elsewhere", "perhaps"],
)
def test_what_is_not_known_to_be_exported_in_all_tables_there_stays(con: Con, notes: dict[str, Any]) -> None:
    log(con, 1, 2, 3)
    exported(con, 3, **notes)
    setting(con, retention_rows=1, delta_location=PLACE)

    run(con)

    assert logged(con) == [1, 2, 3]


def test_without_a_place_to_export_to_old_exports_hold_nothing_back(con: Con) -> None:
    log(con, 1, 2, 3)
    exported(con, 1)
    setting(con, retention_rows=1)

    run(con)

    assert logged(con) == [3]


def expected_after(days_ago: dict[int, float], keep_days: float | None, keep_rows: int | None, last: int) -> list[int]:
    """Say in plain terms what is left: the oracle of the property below."""
    left = sorted(days_ago)
    last = min(last, left[-1] - 1)
    if keep_days is not None:
        left = [seq for seq in left if seq > last or days_ago[seq] <= keep_days]
    if keep_rows is not None:
        excess = set(left[: max(0, len(left) - keep_rows)])
        left = [seq for seq in left if seq > last or seq not in excess]
    return left


@st.composite
def logs(draw: st.DrawFn) -> dict[int, float]:
    seqs = draw(st.lists(st.integers(1, 40), min_size=1, max_size=20, unique=True))
    return {seq: draw(st.sampled_from([0.5, 1.5, 2.5, 3.5])) for seq in seqs}


def test_what_is_removed_is_what_may_go_and_nothing_else_whatever_the_size_of_a_step(con: Con) -> None:
    @settings(max_examples=150, deadline=None)
    @given(
        logs(),
        st.none() | st.sampled_from([1.0, 2.0, 3.0]),
        st.none() | st.integers(1, 22),
        st.integers(0, 45),
        st.integers(1, 12),
    )
    def check(days_ago: dict[int, float], keep_days: float | None, keep_rows: int | None, last: int, step: int) -> None:
        con.execute("delete from fleming.serving.calls; delete from fleming.serving.exports")
        log(con, *days_ago, days_ago=list(days_ago.values()))
        exported(con, last)
        with trimmer(con, step) as steps:
            removable = steps.last_removable(PLACE)
            if keep_days is not None:
                before = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=keep_days)
                while steps.remove_before(before, removable) is not None:
                    pass
            if keep_rows is not None:
                while steps.remove_beyond(keep_rows, removable) is not None:
                    pass

        assert logged(con) == expected_after(days_ago, keep_days, keep_rows, last)

    check()


def test_calls_go_on_and_are_logged_while_rows_are_removed(tmp_path: Path, add_endpoint: Any, model: MockModel) -> None:
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        add_endpoint(con, base_url=model.url)
        con.execute("select count(ai_query('chat', 'q' || i)) from range(500) t(i)").fetchall()
        removing = threading.Thread(target=_remove_half_by_half, args=(con,))
        removing.start()
        for number in range(20):
            con.execute("select ai_query('chat', ?)", [f"more {number}"]).fetchall()
        removing.join()
        setting(con, retention_rows=20)
        run(con)

        assert con.execute("select count(*), count(distinct log_seq) from fleming.serving.calls").fetchall() == [
            (20, 20)
        ]
        assert logged(con) == list(range(501, 521))


def _remove_half_by_half(con: Con) -> None:
    with trimmer(con, 7) as steps:
        while steps.remove_beyond(250, steps.last_removable(None)) is not None:
            pass


def test_a_row_that_somebody_else_removes_at_the_same_time_is_a_failure_that_passes(con: Con) -> None:
    log(con, 1, 2, 3)
    setting(con, retention_rows=1)
    other = con.duckdb.cursor()
    other.execute("begin; delete from fleming.serving.calls where log_seq = 1")

    with pytest.raises(duckdb.TransactionException):
        run(con)
    other.execute("rollback")
    other.close()

    assert run(con) == "2 calls removed from the log"


def test_the_room_of_removed_calls_is_used_again(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        setting(con, retention_rows=2048)
        sizes = []
        for turn in range(8):
            log(con, *range(turn * 10_240 + 1, (turn + 1) * 10_240 + 1))
            run(con)
            assert run(con, "compaction").startswith("checkpoint in ")
            sizes.append((tmp_path / "a.fleming.duckdb").stat().st_size)

        assert sizes[-1] <= sizes[1] * 1.25


def test_compaction_leaves_a_file_alone_that_has_nothing_to_work_in(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        setting(con, retention_rows=2048)
        run(con, "compaction")

        assert run(con, "compaction") == "nothing to do"


def test_a_store_in_memory_is_compacted_without_complaint(con: Con) -> None:
    log(con, *range(1, 5000))
    setting(con, retention_rows=10)
    run(con)

    assert run(con, "compaction")
    assert len(logged(con)) == 10


def test_compaction_waits_while_a_statement_is_under_way(con: Con, serve: Serve) -> None:
    goes_on = threading.Event()
    server = serve(lambda received: echo_chat(received) if goes_on.is_set() else Reply(hang=True))
    log(con, *range(1, 10_000))
    setting(con, retention_rows=10)
    con._session.upkeep.worker.close()  # this test does the tasks itself
    calling = threading.Thread(target=_ask_and_be_broken_off, args=(con.cursor(),))
    calling.start()
    server.wait_until(lambda server: server.in_flight == 1)
    run(con)

    while_busy = run(con, "compaction")
    con._session.engine.cancel()
    calling.join()
    afterwards = run(con, "compaction")

    assert while_busy == "waits for a moment without a statement under way"
    assert afterwards.startswith("checkpoint in ")


def _ask_and_be_broken_off(cursor: Con) -> None:
    with suppress(duckdb.Error):
        cursor.execute("select ai_query('chat', 'x')").fetchall()


def test_room_that_a_transaction_of_the_user_holds_is_freed_after_it(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        log(con, *range(1, 50_001))
        run(con, "compaction")
        setting(con, retention_rows=10)
        with con.duckdb.cursor() as reader:
            reader.execute("begin; from fleming.endpoints").fetchall()
            run(con)
            held = run(con, "compaction")
            reader.execute("rollback")

        freed = run(con, "compaction")

        assert held.endswith("; more once the transactions in the store have ended")
        assert (freed.endswith("for new records"), run(con, "compaction")) == (True, "nothing to do")
