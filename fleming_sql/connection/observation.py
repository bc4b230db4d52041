"""Watches whether the process has OpenTelemetry configured, and has it told of calls from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleming_sql.gateway.pipeline import Gateway
from fleming_sql.observability import make_observer
from fleming_sql.providers import ProviderRegistry

if TYPE_CHECKING:
    from fleming_sql.observability.otel import Observer


class Observation:
    """The observer of one gateway's calls, as soon as there can be one; until then each method looks and does nothing.

    Args:
        gateway: Whose calls.
        providers: Its wire formats.
    """

    def __init__(self, gateway: Gateway, providers: ProviderRegistry) -> None:
        self._gateway = gateway
        self._providers = providers
        self._observer: Observer | None = None

    def on_use(self, connection_id: int) -> None:
        """Tell that a connection is used, on its user's thread."""
        observer = self._look()
        if observer is not None:
            observer.on_use(connection_id)

    def on_bind(self) -> None:
        """Tell that a statement is bound, on its user's thread."""
        observer = self._look()
        if observer is not None:
            observer.on_bind()

    def on_rows(self, statement_id: str, connection_id: int) -> None:
        """Tell that a statement's rows come."""
        if self._observer is not None:
            self._observer.on_rows(statement_id, connection_id)

    def on_close(self, connection_id: int) -> None:
        """Tell that a connection was closed."""
        if self._observer is not None:
            self._observer.on_close(connection_id)

    def flush(self) -> None:
        """Tell of the calls that have ended; raises nothing."""
        if self._observer is not None:
            self._observer.flush()

    def _look(self) -> Observer | None:
        if self._observer is None:
            self._observer = make_observer(self._providers)
            if self._observer is not None:
                self._gateway.observe = self._observer.on_call
        return self._observer
