"""The labels that a connection's calls have besides those of each call's own `usageContext`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from fleming_sql import jsontext
from fleming_sql.errors import ArgumentError
from fleming_sql.policies.options import MAX_USAGE_CONTEXT_BYTES

Labels: TypeAlias = Mapping[str, str]
UsageContext: TypeAlias = Labels | Callable[[], Labels]
"""Labels, or a function that returns them: it is asked once for each statement, on any thread, and must be quick."""


class ConnectionLabels:
    """What the connections of one DuckDB instance are labelled with."""

    def __init__(self) -> None:
        self._chosen: dict[int, UsageContext] = {}
        self._others: UsageContext = {}

    def choose(self, connection_id: int, context: UsageContext | None) -> None:
        """Label the calls of a connection from its next statement on; None leaves its labels as they are."""
        if context is not None:
            self._chosen[connection_id] = context

    def choose_for_others(self, context: UsageContext | None) -> None:
        """Label the calls of connections that have no labels of their own; None leaves those as they are."""
        if context is not None:
            self._others = context

    def chosen(self, connection_id: int) -> UsageContext | None:
        """Return what was chosen for a connection itself."""
        return self._chosen.get(connection_id)

    def of(self, connection_id: int) -> Labels:
        """Return the labels that a statement of a connection gets now."""
        context = self._chosen.get(connection_id, self._others)
        return context() if callable(context) else context

    def forget(self, connection_id: int) -> None:
        """Drop a connection that was closed."""
        self._chosen.pop(connection_id, None)


def check_labels(context: object) -> UsageContext | None:
    """Return labels as `connect` and `attach` take them, copied.

    Raises:
        ArgumentError: They are not texts by name, or longer than a call's own may be.

    Example:
        >>> check_labels({"team": "growth"})
        {'team': 'growth'}
    """
    if context is None or callable(context):
        return context
    accepted = "usage_context takes a dict of texts such as {'team': 'growth'}"
    if not isinstance(context, Mapping):
        raise ArgumentError("DATATYPE_MISMATCH", f"{accepted}, not {type(context).__name__}")
    for key, value in context.items():
        if not isinstance(key, str) or not isinstance(value, str):
            wrong = key if not isinstance(key, str) else value
            raise ArgumentError(
                "DATATYPE_MISMATCH", f"{accepted}, and its key {key} has a value of type {type(wrong).__name__}"
            )
    labels = dict(context)
    if len(jsontext.dumpb(labels)) > MAX_USAGE_CONTEXT_BYTES:
        raise ArgumentError("DATATYPE_MISMATCH", f"usage_context takes at most {MAX_USAGE_CONTEXT_BYTES} bytes")
    return labels
