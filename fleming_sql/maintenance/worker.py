"""One thread that does each task of maintenance when it is due, and never holds up a call.

The thread begins with the first settings that have a task due, so a program that uses none of this never has it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from fleming_sql.clock import Clock
from fleming_sql.types import Settings

LOOK_S: Final = 1.0
"""How often the thread looks whether the settings have changed."""
CLOSE_S: Final = 5.0
"""How long closing waits for the task that is under way."""
BACK_OFF_S: Final = 1.0
"""Wait after a first failure; it doubles with each further one, up to the task's period."""
_STOP_AGAIN_S: Final = 0.05
_LOGGER: Final = logging.getLogger("fleming_sql")


class Task(Protocol):
    """Something that is done now and then. It is never run twice at a time."""

    @property
    def name(self) -> str:
        """What `serving.maintenance` calls it."""
        ...

    def every_s(self, settings: Settings) -> float | None:
        """Return the seconds between the beginnings of two runs, None where there is nothing to do.

        Any thread may call it, many times a second: it must not wait for anything.
        """
        ...

    def run(self, settings: Settings) -> str:
        """Do it and return in a sentence what was done.

        Raises:
            Exception: It failed; the text is shown in `serving.maintenance`, so it holds no secret. It is tried again.
        """
        ...

    def stop(self) -> None:
        """Break off `run`, from another thread; called again and again until `run` has ended."""
        ...


@dataclass(slots=True)
class _State:
    """What is known of one task."""

    started: float | None = None
    ended: float = 0.0
    last_started: datetime | None = None
    last_ended: datetime | None = None
    last_result: str | None = None
    last_error: str | None = None
    runs: int = 0
    failures: int = 0
    failed_in_a_row: int = 0
    told: str | None = None
    """The failure that was logged last, None since a run has succeeded."""
    woken: bool = False


class Worker:
    """Runs tasks one after the other, each when it is due, the first time as soon as it is switched on.

    Args:
        tasks: What there is to do.
        settings: Returns the settings as they hold; called on the thread, at most about once a second.
        clock: Time.

    Example:
        >>> worker = Worker([retention], lambda: config.snapshot().settings, Clock())
        >>> worker.look(settings)  # starts the thread if retention is on
        >>> worker.close()
    """

    def __init__(self, tasks: Sequence[Task], settings: Callable[[], Settings], clock: Clock) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._states = {name: _State() for name in self._tasks}
        self._settings = settings
        self._clock = clock
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None
        self._current: Task | None = None
        self._closed = False
        self._last_seen: Settings | None = None

    @property
    def names(self) -> Collection[str]:
        """The names of the tasks."""
        return self._tasks.keys()

    @property
    def foreign(self) -> bool:
        """Whether this is a process forked off the one that made the worker; another thread may hold its locks."""
        return os.getpid() != self._pid

    @property
    def started(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def hangs(self) -> bool:
        """Whether a task goes on though the worker was closed."""
        return self._closed and self.started

    def look(self, settings: Settings) -> None:
        """Start the thread if these settings have a task to do. Called for each statement, so it is quick."""
        if not self.started and any(task.every_s(settings) is not None for task in self._tasks.values()):
            self.start()

    def start(self) -> None:
        """Start the thread, if there is none. Does nothing after `close` and in a forked process."""
        if self.foreign:
            return
        with self._changed:
            self._start_locked()

    def wake(self, name: str) -> None:
        """Have a task done as soon as possible; return at once. Any thread may call it, the event loop's too.

        Raises:
            KeyError: There is no such task.
        """
        state = self._states[name]
        if self.foreign:
            return
        with self._changed:
            state.woken = True
            self._start_locked()
            self._changed.notify_all()

    def run_now(self, name: str) -> str:
        """Do a task in the calling thread, after the one that is under way; return in a sentence what was done.

        Raises:
            KeyError: There is no such task.
            Exception: It failed, as `Task.run` says.
        """
        return self._run(self._tasks[name], self._settings())

    def close(self) -> None:
        """End the thread; a task under way is broken off. A second close does nothing."""
        if self.foreign:
            return
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is None or thread is threading.current_thread():
            return
        for _ in range(int(CLOSE_S / _STOP_AGAIN_S)):
            current = self._current
            if current is not None:
                current.stop()  # again and again: between two of its statements there is nothing to interrupt
            thread.join(_STOP_AGAIN_S)
            if not thread.is_alive():
                return
        _LOGGER.warning("the maintenance task %s did not end within %g s", current and current.name, CLOSE_S)

    def report(self, settings: Settings) -> list[Mapping[str, Any]]:
        """Return the rows of `serving.maintenance`: one for each task, as of now."""
        now = self._clock.monotonic()
        with self._changed:
            return [
                {
                    "task": name,
                    "every_s": every_s,
                    "last_started": _text(state.last_started),
                    "last_ended": _text(state.last_ended),
                    "last_result": state.last_result,
                    "last_error": None if every_s is None else state.last_error,
                    "runs": state.runs,
                    "failures": state.failures,
                    "next_in_s": None if every_s is None else max(0.0, _due(state, every_s, now) - now),
                }
                for name, state in self._states.items()
                for every_s in [self._tasks[name].every_s(settings)]
            ]

    def _start_locked(self) -> None:
        if not self.started and not self._closed:
            self._thread = threading.Thread(target=self._serve, name="fleming-sql-maintenance", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        while not self._closed:
            settings = self._current_settings()
            task, wait_s = self._next(settings) if settings is not None else (None, LOOK_S)
            if task is None or settings is None:
                self._wait(wait_s)
                continue
            try:
                self._run(task, settings)
            except BaseException as error:  # noqa: BLE001  whatever one task fails by must not end the others
                self._tell(task, error)

    def _current_settings(self) -> Settings | None:
        try:
            self._last_seen = self._settings()
        except BaseException as error:  # noqa: BLE001  the connection may be closed, or the store busy: looked at again
            _LOGGER.debug("the settings cannot be read for maintenance: %s", error)
        return self._last_seen

    def _next(self, settings: Settings) -> tuple[Task | None, float]:
        """Return the task that is due the longest, or how long to wait."""
        now = self._clock.monotonic()
        with self._changed:
            dues = [
                (_due(self._states[task.name], every_s, now), task)
                for task in self._tasks.values()
                for every_s in [task.every_s(settings)]
                if every_s is not None
            ]
            dues += [(now, task) for task in self._tasks.values() if self._states[task.name].woken]
        if not dues:
            return None, LOOK_S
        due, task = min(dues, key=lambda pair: pair[0])
        return (task, 0.0) if due <= now else (None, min(LOOK_S, due - now))

    def _wait(self, seconds: float) -> None:
        with self._changed:
            if not self._closed and not any(state.woken for state in self._states.values()):
                self._changed.wait(seconds)

    def _run(self, task: Task, settings: Settings) -> str:
        with self._running:
            self._begin(task)
            result = error = None
            try:
                result = task.run(settings)
            except BaseException as failure:
                error = f"{type(failure).__name__}: {failure}"
                raise
            finally:
                self._end(task, result, error)
            return result

    def _begin(self, task: Task) -> None:
        state = self._states[task.name]
        with self._changed:
            state.woken = False
            state.started = self._clock.monotonic()
            state.last_started = self._clock.now()
            self._current = task

    def _end(self, task: Task, result: str | None, error: str | None) -> None:
        state = self._states[task.name]
        with self._changed:
            state.ended = self._clock.monotonic()
            state.last_ended = self._clock.now()
            state.runs += 1
            state.failures += error is not None
            state.failed_in_a_row = state.failed_in_a_row + 1 if error is not None else 0
            state.last_error = error
            if result is not None:
                state.last_result = result
                state.told = None
            self._current = None

    def _tell(self, task: Task, error: BaseException) -> None:
        """Log a failure that is not the same as the one before; it is in `serving.maintenance` until a run succeeds."""
        state = self._states[task.name]
        if not self._closed and state.last_error != state.told:
            state.told = state.last_error
            _LOGGER.warning("the maintenance task %s failed and is tried again: %s", task.name, error)


class Workers:
    """Several workers that are used as one: a task that hangs holds up the others of its worker only.

    Args:
        workers: Which ones; no two have a task of the same name.
    """

    def __init__(self, *workers: Worker) -> None:
        self._workers = workers
        self._of = {name: worker for worker in workers for name in worker.names}

    @property
    def started(self) -> bool:
        """Whether there is a thread."""
        return any(worker.started for worker in self._workers)

    def look(self, settings: Settings) -> None:
        """Start the threads that have a task to do by these settings. Called for each statement, so it is quick."""
        for worker in self._workers:
            worker.look(settings)

    def wake(self, name: str) -> None:
        """Have a task done as soon as possible; return at once. Any thread may call it, the event loop's too.

        Raises:
            KeyError: There is no such task.
        """
        self._of[name].wake(name)

    def run_now(self, name: str) -> str:
        """Do a task in the calling thread, after the one that is under way; return in a sentence what was done.

        Raises:
            KeyError: There is no such task.
            Exception: It failed, as `Task.run` says.
        """
        return self._of[name].run_now(name)

    def close(self) -> None:
        """End the threads; tasks under way are broken off. A second close does nothing."""
        for worker in self._workers:
            worker.close()

    def report(self, settings: Settings) -> list[Mapping[str, Any]]:
        """Return the rows of `serving.maintenance`: one for each task, as of now."""
        return [row for worker in self._workers for row in worker.report(settings)]


def _due(state: _State, every_s: float, now: float) -> float:
    if state.started is None:
        return now
    if state.failed_in_a_row:
        return state.ended + min(every_s, BACK_OFF_S * 2.0 ** min(state.failed_in_a_row - 1, 30))
    return max(state.started + every_s, state.ended)


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.replace(tzinfo=None).isoformat()
