"""What ends a statement while it runs: Ctrl-C, a signal to terminate, a result that nobody reads any more."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from fleming_sql import Connection

T = TypeVar("T")
_WAIT_S: Final = 0.1


def run_interruptible(con: Connection, work: Callable[[], T], *, is_wanted: Callable[[], bool] = lambda: True) -> T:
    """Do something with a connection, and have Ctrl-C stop it: nothing more is sent, calls under way are broken off.

    The work is done on another thread: Python tells of signals on the main one, and not while that is within DuckDB,
    which is where reading a result mostly is.

    Args:
        con: The connection that the work is done with.
        work: What to do. Its result and errors are this function's.
        is_wanted: Asked again and again while it is done; the first no stops it as Ctrl-C does.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and the work did not come to its end; or pressed twice.
        SystemExit: So for SIGTERM, which ends the process after the work has put away what it had begun.
        BrokenPipeError: The work is not wanted any more.
    """
    done: Future[T] = Future()
    Thread(target=_settle, args=(done, work), name="fleming-statement", daemon=True).start()
    causes: list[BaseException] = []
    with _sigterm_raised():
        while not done.done() and len(causes) < 2:
            try:
                if not causes and not is_wanted():
                    causes.append(BrokenPipeError())
                if causes:
                    con.interrupt()  # again and again: it stops one statement, and there may be another after it
                wait([done], _WAIT_S)  # not Thread.join: Python 3.11 takes a thread for ended when it is interrupted
            except (KeyboardInterrupt, SystemExit) as cause:
                causes.append(cause)
    if causes and (not done.done() or done.exception() is not None):
        raise causes[0]
    return done.result()


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Have SIGTERM raise `SystemExit`, so that files that are not complete are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # as a shell has it of a process that a signal ended


def _settle(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # noqa: BLE001  raised again by who waits
        done.set_exception(error)
