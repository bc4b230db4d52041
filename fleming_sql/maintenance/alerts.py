"""Raises alerts: for queries whose number passes its threshold, and for budgets that are used up.

What is raised stands in `serving.alerts` before anybody is told, and what stands there is not raised again, so neither
a restart nor a second look repeats an alert.
"""

from __future__ import annotations

import logging
import operator
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Protocol

from fleming_sql.clock import Clock
from fleming_sql.errors import ConfigError
from fleming_sql.store.alerts import AlertStore
from fleming_sql.types import Alert, AlertRule, Comparison, Settings, UsedUp

Listener = Callable[[Alert], None]
_LEAST_S: Final = 0.1
"""Between two looks, however short `every` is."""
_AGAIN_S: Final = 1.0
"""Between two tries to write what waits to be written."""
_LOGGER: Final = logging.getLogger("fleming_sql")
_COMPARED: Final[Mapping[Comparison, Callable[[float, float], bool]]] = MappingProxyType(
    {
        ">": operator.gt,
        ">=": operator.ge,
        "<": operator.lt,
        "<=": operator.le,
        "=": operator.eq,
        "<>": operator.ne,
    }
)


class Messenger(Protocol):
    """Tells webhooks; `webhooks.Webhooks` is the one there is."""

    def send(self, alert: Alert, webhook: str) -> None:
        """Tell a webhook; return at once."""
        ...

    def close(self) -> None:
        """Wait a little for what is under way, and end."""
        ...


@dataclass(frozen=True, slots=True)
class _Look:
    """The latest look that a rule has had."""

    rule: AlertRule
    at: float
    last_seq: int | None
    """Newest call then; None where the query failed, so that it is asked again."""


class AlertBoard:
    """The task that looks after alerts.

    Args:
        store: Asks the queries and keeps the alerts.
        webhooks: Makes what tells webhooks, given what is to be called with an alert's id and what came of it.
        clock: Time.
        wake: Has this task run soon; called from any thread, the event loop's too.
    """

    name: Final = "alerts"

    def __init__(
        self,
        store: AlertStore,
        webhooks: Callable[[Callable[[str, str], None]], Messenger],
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._webhooks = webhooks(self._told)
        self._clock = clock
        self._wake = wake
        self._rules: tuple[AlertRule, ...] = ()
        self._looks: dict[str, _Look] = {}
        self._failing: dict[str, str] = {}
        """What is wrong with the queries whose latest look failed, by name."""
        self._has_read = False
        self._holding: set[str] = set()
        """Names of the queries whose alert has not ended, once they are read from the store."""
        self._used_up: deque[UsedUp] = deque()
        self._statuses: deque[tuple[str, str]] = deque()
        self._listeners: list[Listener] = []
        self._stopped = threading.Event()

    def configure(self, rules: tuple[AlertRule, ...]) -> None:
        """Take over rules that may have changed."""
        self._rules = rules

    def listen(self, listener: Listener) -> None:
        """Have a function called with each alert from now on, on the maintenance thread. Twice is once."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def used_up(self, event: UsedUp) -> None:
        """Raise the alert of a budget, once for each subject and window; return at once. Any thread may call it."""
        self._used_up.append(event)
        self._wake()

    def every_s(self, settings: Settings) -> float | None:
        """Return the seconds between two looks, None without anything to look at."""
        if self._used_up or self._statuses:
            return _AGAIN_S
        if self._rules:
            return max(_LEAST_S, min(rule.every_s for rule in self._rules))
        return _AGAIN_S if self._holding else None

    def run(self, settings: Settings) -> str:
        """Write what waits to be written, and ask the queries that are due and have new calls to look at.

        Raises:
            ConfigError: Queries fail, with their names, now or when they were asked last; the others were asked.
            duckdb.Error: The store could not be written; it is tried again.
        """
        self._stopped.clear()
        if not self._has_read:
            self._holding = self._store.holding()
            self._has_read = True
        self._write_statuses()
        raised = self._raise_budgets()
        rules = self._rules
        for name in self._holding - {rule.name for rule in rules}:
            self._end(name)
        last_seq = self._store.last_seq()
        for name in self._failing.keys() - {rule.name for rule in rules}:
            del self._failing[name]
        asked = 0
        for rule in rules:
            if self._stopped.is_set() or not self._is_due(rule, last_seq):
                continue
            asked += 1
            try:
                raised += self._look(rule, last_seq)
                self._failing.pop(rule.name, None)
            except ConfigError as error:
                if not self._stopped.is_set():
                    self._failing[rule.name] = (
                        f'alert "{rule.name}": {error} (table fleming.alerts, row {rule.name}, column query)'
                    )
        if self._failing and not self._stopped.is_set():
            raise ConfigError("; ".join(text for _, text in sorted(self._failing.items())))
        return f"{asked} queries asked, {raised} alerts raised, {len(self._holding)} hold"

    def stop(self) -> None:
        """Break off the query under way."""
        self._stopped.set()
        self._store.interrupt()

    def close(self) -> None:
        """Write what waits to be written and tell the webhooks, which get a little time. The worker has ended before.

        Raises:
            duckdb.Error: The store could not be written.
        """
        if self._used_up:
            self._raise_budgets()
        self._webhooks.close()
        self._write_statuses()

    def _told(self, alert_id: str, status: str) -> None:
        self._statuses.append((alert_id, status))
        self._wake()

    def _write_statuses(self) -> None:
        while self._statuses:
            self._store.set_webhook_status(*self._statuses[0])
            self._statuses.popleft()  # afterwards: what could not be written is tried again

    def _raise_budgets(self) -> int:
        raised = 0
        while self._used_up:
            event = self._used_up[0]
            alert = self._budget_alert(event)
            if not self._store.is_known(alert):
                self._store.add(alert)
                raised += 1
                self._tell(alert, event.budget.webhook)
            self._used_up.popleft()
        return raised

    def _is_due(self, rule: AlertRule, last_seq: int) -> bool:
        look = self._looks.get(rule.name)
        if look is None or look.rule != rule:
            return True
        return look.last_seq != last_seq and self._clock.monotonic() >= look.at + rule.every_s

    def _look(self, rule: AlertRule, last_seq: int) -> bool:
        """Ask a rule's query; return whether its alert was raised.

        Raises:
            ConfigError: The query failed.
        """
        at = self._clock.monotonic()
        self._looks[rule.name] = _Look(rule, at, None)
        value = self._store.ask(rule.query)
        holds = value is not None and _COMPARED[rule.comparison](value, rule.threshold)
        known = rule.name in self._holding
        if holds and not known:
            self._raise(rule, value)
        elif known and not holds:
            self._end(rule.name)
        self._looks[rule.name] = _Look(rule, at, last_seq)
        return holds and not known

    def _raise(self, rule: AlertRule, value: float | None) -> None:
        alert = Alert(
            alert_id=self._clock.new_id(),
            alert_time=self._clock.now(),
            kind="query",
            name=rule.name,
            subject=None,
            window_start=None,
            value=value,
            threshold=rule.threshold,
            message=f'alert "{rule.name}": {value:g} {rule.comparison} {rule.threshold:g}',
        )
        self._store.add(alert)
        self._holding.add(rule.name)
        self._tell(alert, rule.webhook)

    def _end(self, name: str) -> None:
        self._store.end(name, self._clock.now())
        self._holding.discard(name)

    def _budget_alert(self, event: UsedUp) -> Alert:
        budget, start = event.budget, _utc(event.window_start)
        of = f' of "{event.subject}"' if event.subject is not None else ""
        return Alert(
            alert_id=self._clock.new_id(),
            alert_time=self._clock.now(),
            kind="budget",
            name=budget.name,
            subject=event.subject,
            window_start=start,
            value=event.spent_usd,
            threshold=budget.amount_usd,
            message=f'budget "{budget.name}"{of} is used up: {event.spent_usd:.6g} of {budget.amount_usd:.6g} '
            f"US dollars spent in the {budget.window} since {start:%Y-%m-%d %H:%M} UTC",
        )

    def _tell(self, alert: Alert, webhook: str | None) -> None:
        if webhook:
            self._webhooks.send(alert, webhook)
        for listener in self._listeners:
            try:
                listener(alert)
            except BaseException:  # sys.exit() too: whatever a listener fails by must not end the thread
                _LOGGER.exception("on_alert failed for the alert %s", alert.name)


def _utc(time: datetime) -> datetime:
    """Return a time in UTC; one without a zone is."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
