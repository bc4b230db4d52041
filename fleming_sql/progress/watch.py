"""Looks at running statements a few times a second, on a thread of its own, and has them drawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Protocol, Self

from fleming_sql.progress.figures import Figures
from fleming_sql.progress.surroundings import Surroundings

SHOWN_AFTER_S: Final = 1.0
"""How long a statement's calls take before there is a bar: what is quicker needs none."""
REDRAWN_S: Final = 0.2


class Display(Protocol):
    """A place where one bar is drawn."""

    def draw(self, figures: Figures) -> None:
        """Show how far the statement is."""
        ...

    def rest(self, figures: Figures) -> None:
        """No call is under way any more: leave the place so that others can write there."""
        ...


class Watch:
    """Draws the bars of one gateway's statements.

    The calls know nothing of it. A thread reads what the gateway counts anyway; it starts with the first statement
    that may be shown and sleeps while none runs.

    Args:
        surroundings: Finds where there is something to draw on.
    """

    def __init__(self, surroundings: Surroundings | None = None) -> None:
        self._surroundings = surroundings or Surroundings()
        self._wanted: dict[int, bool | None] = {}
        self._default: bool | None = None
        self._untraced: set[int] = set()
        self._changed = threading.Condition()
        self._running: list[Bar] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def choose(self, connection_id: int, wanted: bool | None) -> None:
        """Say whether a connection's statements are shown.

        Args:
            connection_id: DuckDB's number of it.
            wanted: None for by itself: where somebody looks, which a pipe, a file and a CI job are not.
        """
        self._wanted[connection_id] = wanted

    def choose_for_others(self, wanted: bool | None) -> None:
        """Say the same of the connections that DuckDB makes by itself, such as `con.cursor()` of a bare one."""
        self._default = wanted

    def forget(self, connection_id: int) -> None:
        """Drop what was chosen for a connection."""
        self._wanted.pop(connection_id, None)

    @contextmanager
    def without_trace(self, connection_id: int) -> Iterator[None]:
        """Have bars that begin meanwhile taken away at their end where others leave a line."""
        self._untraced.add(connection_id)
        try:
            yield
        finally:
            self._untraced.discard(connection_id)

    def on_bind(self) -> None:
        """Look where the user is. Called on the thread that a statement was sent from; its rows may come on others."""
        self._surroundings.look()

    def bar(self, connection_id: int, read: Callable[[float], Figures]) -> Bar | None:
        """Return the bar of a statement that begins, None where it is not to be shown.

        Args:
            connection_id: Whose statement.
            read: Returns its figures, given the seconds that have passed; called on the thread of the watch.
        """
        wanted = self._wanted.get(connection_id, self._default)
        leaves = connection_id not in self._untraced
        display = None if wanted is False else self._surroundings.display(wanted, leaves=leaves)
        return None if display is None else Bar(self, display, read)

    def begin(self, bar: Bar) -> None:
        """Have a bar drawn from now on."""
        with self._changed:
            if self._closed:
                return
            self._running.append(bar)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="fleming-sql-progress", daemon=True)
                self._thread.start()
            self._changed.notify()

    def end(self, bar: Bar) -> None:
        """Have it drawn no more."""
        with self._changed:
            if bar in self._running:
                self._running.remove(bar)

    def stop(self) -> None:
        """Leave the places of all bars now, for good; a signal handler may call it.

        DuckDB 1.5 ends an interrupted statement before the last of its rows have come back.
        """
        for bar in list(self._running):
            bar.stop()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._running.clear()
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._running and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                oldest = self._running[0]  # a terminal has one line for it
            oldest.draw()
            time.sleep(REDRAWN_S)


class Bar:
    """The bar of one statement. It is there only while rows of the statement are with the gateway.

    A statement has no end that a function of it could see, so the place is left with each last vector of rows: what
    the user prints next, or an error, finds it clean.

    Args:
        watch: Draws it.
        display: Where.
        read: Returns the figures.
    """

    def __init__(self, watch: Watch, display: Display, read: Callable[[float], Figures]) -> None:
        self._watch = watch
        self._display = display
        self._read = read
        self._began = time.monotonic()
        self._lock = threading.RLock()  # a signal handler may come while its own thread holds it
        self._vectors = 0
        self._is_drawn = False
        self._is_stopped = False

    def draw(self) -> None:
        """Draw it, if there is one by now."""
        passed_s = time.monotonic() - self._began
        if passed_s < SHOWN_AFTER_S:
            return
        with self._lock:
            if self._vectors and not self._is_stopped:
                self._is_drawn = True
                self._display.draw(self._read(passed_s))

    def stop(self) -> None:
        """Leave the place, and do not come back."""
        with self._lock:
            self._is_stopped = True
            self._leave()

    def _leave(self) -> None:
        if self._is_drawn:
            self._is_drawn = False
            self._display.rest(self._read(time.monotonic() - self._began))

    def __enter__(self) -> Self:
        with self._lock:
            self._vectors += 1
            is_first = self._vectors == 1
        if is_first:
            self._watch.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._vectors -= 1
            is_last = self._vectors == 0
            if is_last:
                self._leave()
        if is_last:
            self._watch.end(self)
