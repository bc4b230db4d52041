"""A mock model server for tests and benchmarks: real sockets, no network beyond 127.0.0.1.

Example:
    >>> from fleming_sql.testing import MockModel, echo_chat
    >>> with MockModel(echo_chat) as server:
    ...     url = server.url

`Faults`, `Capacity`, `Phases` and `Switch` make it fail, to try out what a configuration does about it.

`python -m fleming_sql.testing --port 0 --latency-ms 50 --sigma 0.3` serves from a process of its own; `--help` tells
of the faults.
"""

from fleming_sql.testing.faults import Capacity, Faults, Phases, Switch, after
from fleming_sql.testing.replies import (
    Constant,
    Received,
    Reply,
    anthropic_reply,
    chat_reply,
    completion_reply,
    echo_chat,
    embeddings_reply,
    error_reply,
    moderation_reply,
)
from fleming_sql.testing.server import MockModel

__all__ = [
    "Capacity",
    "Constant",
    "Faults",
    "MockModel",
    "Phases",
    "Received",
    "Reply",
    "Switch",
    "after",
    "anthropic_reply",
    "chat_reply",
    "completion_reply",
    "echo_chat",
    "embeddings_reply",
    "error_reply",
    "moderation_reply",
]
