"""Ctrl-C while a statement runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from fleming_sql import Connection

T = TypeVar("T")
_WAIT_S: Final = 0.1


def run_interruptible(con: Connection, work: Callable[[], T]) -> T:
    """Do something with a connection, and have Ctrl-C stop it: nothing more is sent, calls under way are broken off.

    The work is done on another thread: Python tells of signals on the main one, and not while that is within DuckDB,
    which is where reading a result mostly is.

    Args:
        con: The connection that the work is done with.
        work: What to do. Its result and errors are this function's.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and the work did not come to its end; or pressed twice.
    """
    done: Future[T] = Future()
    Thread(target=_settle, args=(done, work), name="fleming-statement", daemon=True).start()
    presses = 0
    while not done.done() and presses < 2:
        try:
            if presses:
                con.interrupt()  # again and again: it stops one statement, and there may be another after it
            wait([done], _WAIT_S)  # not Thread.join: in Python 3.11 it takes a thread for ended when it is interrupted
        except KeyboardInterrupt:
            presses += 1
    if presses and (not done.done() or done.exception() is not None):
        raise KeyboardInterrupt
    return done.result()


def _settle(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # noqa: BLE001  raised again by who waits
        done.set_exception(error)
