"""Processes that serve, and rows of the configuration that lead to them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

import fleming_sql

START_S: Final = 120.0
_LOOK_S: Final = 0.2


@contextmanager
def serving(
    command: list[str], folder: Path, ready: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a server on a free port, and give its address once it answers at the path `ready`."""
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_environment(), **(environment or {})},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url + ready, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def serve_as(con: fleming_sql.Connection, provider: str, url: str, model: str, **columns: Any) -> None:
    """Make a server the endpoint `peer`."""
    task = columns.pop("task", "llm/v1/chat")
    con.execute("insert into fleming.endpoints (name, task, max_retries) values ('peer', ?, 0)", [task])
    con.execute(
        "insert into fleming.served_entities (endpoint, name, provider, model, base_url, credential) "
        "values ('peer', 'one', ?, ?, ?, ?)",
        [provider, model, url, columns.get("credential")],
    )


def _environment() -> dict[str, str]:
    """Return the environment without proxies, with the commands of this Python first."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"}


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  127.0.0.1
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(_LOOK_S)
    pytest.fail(f"{process.args!r} does not serve; its log ends: {log.read_text('utf-8', 'replace')[-2000:]}")
