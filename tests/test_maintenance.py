"""The thread that does what is done beside the calls: when it begins and ends, and what a task that fails costs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Con

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.maintenance.worker import Worker, Workers
from fleming_sql.testing import MockModel
from fleming_sql.types import Settings

PATIENCE_S = 20.0
"""For what the thread does soon; a test that works never waits so long."""


class FakeTask:
    """A task that does what a test says, and lets the test wait for it."""

    def __init__(
        self, name: str = "a", every_s: float | None = 3600.0, does: Callable[[], str] = lambda: "done"
    ) -> None:
        self.name = name
        self.period_s = every_s
        self.does = does
        self.runs = 0
        self.stops = 0
        self.ran = threading.Semaphore(0)
        self.stopped = threading.Event()

    def every_s(self, settings: Settings) -> float | None:
        return self.period_s

    def run(self, settings: Settings) -> str:
        self.runs += 1
        try:
            return self.does()
        finally:
            self.ran.release()

    def stop(self) -> None:
        self.stops += 1
        self.stopped.set()


class HandClock(Clock):
    """A clock that a test sets."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


Start = Callable[..., Worker]


@pytest.fixture
def start() -> Iterator[Start]:
    """Make a worker that is closed in the end."""
    workers: list[Worker] = []

    def make(*tasks: FakeTask, clock: Clock | None = None, settings: Callable[[], Settings] = Settings) -> Worker:
        workers.append(Worker(tasks, settings, clock or Clock()))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


def row(worker: Worker, task: str = "a") -> dict[str, Any]:
    return next(dict(found) for found in worker.report(Settings()) if found["task"] == task)


def maintenance_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fleming-sql-maintenance"]


def broken() -> str:
    raise ValueError("no luck")


def test_there_is_no_thread_while_no_task_has_anything_to_do(start: Start) -> None:
    worker = start(FakeTask(every_s=None))

    worker.look(Settings())

    assert not worker.started


def test_a_task_runs_as_soon_as_it_is_switched_on(start: Start) -> None:
    task = FakeTask()

    start(task).look(Settings())

    assert task.ran.acquire(timeout=PATIENCE_S)


def test_a_task_that_is_switched_on_later_is_seen_by_the_thread(start: Start) -> None:
    first, late = FakeTask("a"), FakeTask("b", every_s=None)
    start(first, late).look(Settings())
    assert first.ran.acquire(timeout=PATIENCE_S)

    late.period_s = 3600.0

    assert late.ran.acquire(timeout=PATIENCE_S)


def test_a_task_runs_again_after_its_period(start: Start) -> None:
    task = FakeTask(every_s=0.01)

    start(task).look(Settings())

    assert all(task.ran.acquire(timeout=PATIENCE_S) for _ in range(3))


def test_a_woken_task_runs_at_once_though_it_is_switched_off(start: Start) -> None:
    task = FakeTask(every_s=None)

    start(task).wake("a")

    assert task.ran.acquire(timeout=PATIENCE_S)


def test_waking_returns_while_another_task_is_at_work(start: Start) -> None:
    goes_on = threading.Event()
    slow = FakeTask("slow", does=lambda: str(goes_on.wait(PATIENCE_S)))
    woken = FakeTask("woken", every_s=None)
    worker = start(slow, woken)
    worker.wake("slow")

    worker.wake("woken")
    ran_before = woken.runs
    goes_on.set()

    assert (ran_before, woken.ran.acquire(timeout=PATIENCE_S)) == (0, True)


def test_a_task_that_fails_does_not_keep_others_from_running(start: Start) -> None:
    fails, works = FakeTask("a", does=broken), FakeTask("b")

    start(fails, works).look(Settings())

    assert works.ran.acquire(timeout=PATIENCE_S)


def leave() -> str:
    raise SystemExit(1)


def test_what_is_no_exception_does_not_end_the_thread_either(start: Start) -> None:
    first, second = FakeTask("a", does=leave), FakeTask("b")
    worker = start(first, second)
    worker.look(Settings())

    assert second.ran.acquire(timeout=PATIENCE_S)
    worker.wake("b")
    assert second.ran.acquire(timeout=PATIENCE_S)
    assert row(worker)["last_error"] == "SystemExit: 1"


def test_a_thread_that_has_ended_is_begun_anew(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    task = FakeTask()
    worker = start(task)
    with monkeypatch.context() as patched:
        patched.setattr(worker, "_serve", lambda: None)
        worker.start()
        thread = worker._thread
        assert thread is not None
        thread.join()

    worker.look(Settings())

    assert task.ran.acquire(timeout=PATIENCE_S)


def test_a_task_that_hangs_holds_up_those_of_its_own_worker_only(start: Start) -> None:
    go_on = threading.Event()
    hanging = FakeTask("a", does=lambda: str(go_on.wait(PATIENCE_S)))
    workers = Workers(start(hanging), start(FakeTask("b")))
    workers.look(Settings())

    try:
        assert workers.run_now("b") == "done"
        assert {found["task"]: found["runs"] for found in workers.report(Settings())}["a"] == 0
    finally:
        go_on.set()


def test_a_task_that_is_switched_off_shows_no_error(start: Start) -> None:
    task = FakeTask(does=broken)
    worker = start(task)
    with pytest.raises(ValueError, match="no luck"):
        worker.run_now("a")
    assert row(worker)["last_error"] == "ValueError: no luck"

    task.period_s = None

    assert row(worker)["last_error"] is None


def test_a_failure_is_shown_and_counted(start: Start) -> None:
    worker = start(FakeTask(does=broken))

    with pytest.raises(ValueError, match="no luck"):
        worker.run_now("a")

    assert (row(worker)["last_error"], row(worker)["failures"]) == ("ValueError: no luck", 1)


def test_a_run_that_succeeds_clears_the_error_and_keeps_the_count(start: Start) -> None:
    task = FakeTask(does=broken)
    worker = start(task)
    with pytest.raises(ValueError, match="no luck"):
        worker.run_now("a")

    task.does = lambda: "done"
    worker.run_now("a")

    assert (row(worker)["last_error"], row(worker)["last_result"], row(worker)["failures"]) == (None, "done", 1)


def test_waits_after_failures_double_up_to_the_period(start: Start) -> None:
    worker = start(FakeTask(every_s=5.0, does=broken), clock=HandClock())
    waits = []
    for _ in range(5):
        with pytest.raises(ValueError, match="no luck"):
            worker.run_now("a")
        waits.append(row(worker)["next_in_s"])

    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_the_period_counts_from_the_beginning_of_a_run(start: Start) -> None:
    clock = HandClock()

    def work() -> str:
        clock.seconds += 4.0
        return "done"

    worker = start(FakeTask(every_s=10.0, does=work), clock=clock)

    worker.run_now("a")

    assert row(worker)["next_in_s"] == 6.0


def test_a_failure_that_repeats_is_logged_once(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    task = FakeTask(every_s=0.001, does=broken)

    with caplog.at_level(logging.WARNING, "fleming_sql"):
        start(task).look(Settings())
        assert all(task.ran.acquire(timeout=PATIENCE_S) for _ in range(5))

    assert [record.getMessage() for record in caplog.records] == [
        "the maintenance task a failed and is tried again: no luck"
    ]


def test_settings_that_cannot_be_read_do_not_end_the_thread(start: Start) -> None:
    answers: list[Callable[[], Settings]] = [Settings]

    def settings() -> Settings:
        if not answers:
            return Settings()
        answers.pop()
        raise OSError("busy")

    task = FakeTask()
    start(task, settings=settings).look(Settings())

    assert task.ran.acquire(timeout=PATIENCE_S)


def test_closing_breaks_off_the_task_that_is_at_work(start: Start) -> None:
    task = FakeTask()
    began = threading.Event()

    def work() -> str:
        began.set()
        return str(task.stopped.wait(PATIENCE_S))

    task.does = work
    worker = start(task)
    worker.look(Settings())
    assert began.wait(PATIENCE_S)

    worker.close()

    assert (row(worker)["last_result"], task.stops >= 1) == ("True", True)


def test_nothing_runs_after_closing(start: Start) -> None:
    task = FakeTask()
    worker = start(task)
    worker.close()

    worker.wake("a")
    worker.start()

    assert (worker.started, task.runs) == (False, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_nothing_runs_in_a_forked_child(start: Start) -> None:
    worker = start(FakeTask(every_s=None))
    child = os.fork()
    if child == 0:  # pragma: no cover
        worker.wake("a")
        worker.start()
        worker.close()
        os._exit(7 if worker.started else 0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_gateway_with_nothing_to_do_has_no_maintenance_thread(con: Con, model: MockModel) -> None:
    before = len(maintenance_threads())

    con.execute("select ai_query('chat', 'x')").fetchall()

    assert len(maintenance_threads()) == before


def test_the_first_call_starts_what_the_settings_ask_for(con: Con, model: MockModel) -> None:
    con.execute("insert into fleming.settings values ('retention_rows', '1000')")

    con.execute("select ai_query('chat', 'x')").fetchall()

    assert con._session.upkeep.worker.started


def test_looking_at_maintenance_starts_what_the_settings_ask_for(con: Con) -> None:
    con.execute("insert into fleming.settings values ('retention_rows', '1000')")

    [(every_s,)] = con.execute("select every_s from fleming.serving.maintenance where task = 'retention'").fetchall()

    assert (every_s, con._session.upkeep.worker.started) == (600.0, True)


def test_the_thread_ends_with_the_gateway(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        con.execute("insert into fleming.settings values ('retention_rows', '1000')")
        con.execute("from fleming.serving.maintenance").fetchall()
        threads = maintenance_threads()

    assert threads
    assert not any(thread.is_alive() for thread in threads)
