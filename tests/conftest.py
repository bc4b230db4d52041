"""Real DuckDB, real sockets, real threads; only the model behind the socket is a stand-in, and it counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import settings

import fleming_sql
from fleming_sql.testing import MockModel, Received, Reply, echo_chat

# How long an example takes tells of the machine, not of the code.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")

Con = fleming_sql.Connection
Serve = Callable[..., MockModel]
AddEndpoint = Callable[..., None]
Also = Callable[..., MockModel]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on who runs it, or on keys and proxies of the machine."""
    for name in (
        "FLEMING_USER",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def con() -> Iterator[Con]:
    """A database in memory with a gateway in memory."""
    with fleming_sql.connect(user="ada") as con:
        yield con


@pytest.fixture
def add_endpoint() -> AddEndpoint:
    """Add an endpoint with one entity; keywords go to the columns of either table."""
    entity_columns = {
        "provider",
        "model",
        "base_url",
        "credential",
        "traffic_percentage",
        "position",
        "parameters",
    }
    entity_columns.add("provider_config")

    def add(con: Any, name: str = "chat", *, base_url: str | None = None, **columns: Any) -> None:
        entity = {key: value for key, value in columns.items() if key in entity_columns}
        endpoint = {key: value for key, value in columns.items() if key not in entity_columns}
        entity = {"provider": "openai", "model": "mock", "base_url": base_url, **entity}
        _insert(con, "fleming.endpoints", {"name": name, **endpoint})
        _insert(con, "fleming.served_entities", {"endpoint": name, "name": f"{name}-1", **entity})

    return add


def _insert(con: Any, table: str, row: dict[str, Any]) -> None:
    values = [json.dumps(value) if isinstance(value, dict | list) else value for value in row.values()]
    con.execute(f"insert into {table} ({', '.join(row)}) values ({', '.join('?' * len(row))})", values)


@pytest.fixture
def serve(con: Con, add_endpoint: AddEndpoint) -> Iterator[Serve]:
    """Start a model server and make it the endpoint `chat` (or another) of `con`."""
    servers: list[MockModel] = []

    def start(
        reply: Callable[[Received], Reply] = echo_chat, name: str = "chat", path: str = "", **columns: Any
    ) -> MockModel:
        server = MockModel(reply)
        server.__enter__()
        servers.append(server)
        add_endpoint(con, name, base_url=server.url + path, **columns)
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def also(con: Con) -> Iterator[Also]:
    """Start another server and make it the next entity of `chat`, for fallback only unless told otherwise."""
    with ExitStack() as servers:

        def start(reply: Callable[[Received], Reply] = echo_chat, **columns: Any) -> MockModel:
            server = servers.enter_context(MockModel(reply))
            add_entity(con, base_url=server.url, **columns)
            return server

        yield start


def add_entity(con: Con, **columns: Any) -> None:
    """Make a row the next entity of `chat`, for fallback only unless told otherwise."""
    [(number,)] = con.execute("select count(*) + 1 from fleming.served_entities").fetchall()
    row = {"endpoint": "chat", "name": f"chat-{number}", "provider": "openai", "model": "mock"}
    _insert(con, "fleming.served_entities", {**row, "traffic_percentage": 0, "position": number, **columns})


@pytest.fixture
def model(serve: Serve) -> MockModel:
    """A model that echoes, behind the endpoint `chat`."""
    return serve()
