"""A waiting line in which users take turns, and the statements of each user among themselves."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Flow(NamedTuple):
    """Whose turn a waiting call takes."""

    user: Hashable
    statement: Hashable


class FairQueue(Generic[T]):
    """Hands out what waits in turn: one of each user, for each user one of each statement, each statement's in order.

    So a single call waits for at most one call of each user ahead of it, not for all rows of a long batch.

    Args:
        is_gone: Whether an item waits no longer; such items are dropped when their turn comes.

    Example:
        >>> queue = FairQueue[str](is_gone=lambda item: False)
        >>> for item in ("a1", "a2"):
        ...     queue.push(Flow("ada", 1), item)
        >>> queue.push(Flow("bob", 2), "b1")
        >>> [queue.pop() for _ in range(4)]
        ['a1', 'b1', 'a2', None]
    """

    def __init__(self, is_gone: Callable[[T], bool]) -> None:
        self._is_gone = is_gone
        self._users: OrderedDict[Hashable, OrderedDict[Hashable, deque[T]]] = OrderedDict()

    def __bool__(self) -> bool:
        """Return whether anything may be waiting."""
        return bool(self._users)

    def __iter__(self) -> Iterator[T]:
        """Return what waits, in no particular order."""
        for statements in self._users.values():
            for items in statements.values():
                yield from (item for item in items if not self._is_gone(item))

    def counts(self) -> dict[Hashable, int]:
        """Return how many items of each statement wait."""
        found: dict[Hashable, int] = {}
        for statements in self._users.values():
            for statement, items in statements.items():
                found[statement] = found.get(statement, 0) + sum(1 for item in items if not self._is_gone(item))
        return found

    def users(self) -> list[Hashable]:
        """Return those who wait, whose turn it is first."""
        return list(self._users)

    def flows(self, user: Hashable) -> list[Flow]:
        """Return the statements of a user that wait, whose turn it is first."""
        return [Flow(user, statement) for statement in self._users.get(user, ())]

    def push(self, flow: Flow, item: T) -> None:
        """Put `item` at the end of its statement's line."""
        self._users.setdefault(flow.user, OrderedDict()).setdefault(flow.statement, deque()).append(item)

    def head(self, flow: Flow) -> T | None:
        """Return what is next of a statement, None where it waits for nothing."""
        statements = self._users.get(flow.user)
        items = statements.get(flow.statement) if statements else None
        while items and self._is_gone(items[0]):
            items.popleft()
        if items:
            return items[0]
        self._drop(flow)
        return None

    def take(self, flow: Flow) -> T | None:
        """Take out what is next of a statement; its next turn, and its user's, comes after everybody else's."""
        item = self.head(flow)
        if item is None:
            return None
        statements = self._users[flow.user]
        statements[flow.statement].popleft()
        statements.move_to_end(flow.statement)
        self._users.move_to_end(flow.user)
        if not statements[flow.statement]:
            self._drop(flow)
        return item

    def pop(self) -> T | None:
        """Take out whose turn it is, None where nothing waits."""
        while self._users:
            user, statements = next(iter(self._users.items()))
            item = self.take(Flow(user, next(iter(statements))))
            if item is not None:
                return item
        return None

    def _drop(self, flow: Flow) -> None:
        statements = self._users.get(flow.user)
        if statements is not None:
            statements.pop(flow.statement, None)
            if not statements:
                del self._users[flow.user]
