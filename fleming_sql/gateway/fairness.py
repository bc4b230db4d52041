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
        >>> [queue.pop(user) for user in ("ada", "bob", "ada")]
        ['a1', 'b1', 'a2']
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

    def users(self) -> list[Hashable]:
        """Return those who wait, whose turn it is first."""
        return list(self._users)

    def push(self, flow: Flow, item: T) -> None:
        """Put `item` at the end of its statement's line."""
        self._users.setdefault(flow.user, OrderedDict()).setdefault(flow.statement, deque()).append(item)

    def head(self, user: Hashable) -> T | None:
        """Return what `pop` would, None where the user waits for nothing."""
        statements = self._users.get(user)
        while statements:
            statement, items = next(iter(statements.items()))
            while items and self._is_gone(items[0]):
                items.popleft()
            if items:
                return items[0]
            del statements[statement]
        self._users.pop(user, None)
        return None

    def pop(self, user: Hashable) -> T | None:
        """Take out what is next of a user; its next turn comes after everybody else's."""
        if self.head(user) is None:
            return None
        statements = self._users[user]
        statement, items = next(iter(statements.items()))
        item = items.popleft()
        statements.move_to_end(statement)
        self._users.move_to_end(user)
        if not items:
            del statements[statement]
        if not statements:
            del self._users[user]
        return item
