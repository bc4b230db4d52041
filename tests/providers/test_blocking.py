"""Logins that block: they are made on threads that nobody waits for when the process ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import AddEndpoint, Con
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fleming_sql.providers.blocking import in_daemon_thread
from fleming_sql.testing import MockModel, Received, Reply

_HANGS = """
import asyncio, threading
from fleming_sql.providers.blocking import in_daemon_thread
async def main():
    task = asyncio.create_task(in_daemon_thread(threading.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
asyncio.run(main())
"""


def test_a_call_that_never_ends_does_not_keep_the_process_alive() -> None:
    ended = subprocess.run([sys.executable, "-c", _HANGS], timeout=30, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_the_call_returns_or_raises_is_passed_on() -> None:
    assert asyncio.run(in_daemon_thread(lambda: 7)) == 7
    with pytest.raises(KeyError, match="X"):
        asyncio.run(in_daemon_thread(lambda: os.environ["X"]))


def test_a_call_that_ends_after_its_loop_is_closed_says_nothing() -> None:
    may_end, threads = threading.Event(), []

    def call() -> None:
        threads.append(threading.current_thread())
        may_end.wait(30)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_daemon_thread(call), 0.05)

    asyncio.run(give_up())
    may_end.set()
    threads[0].join(30)  # an exception in it is a warning, which fails the test

    assert not threads[0].is_alive()


class _Lender:
    """A server that lends credentials, and looks at who is waiting for them."""

    def __init__(self) -> None:
        self.waiting: list[bool] = []

    def __call__(self, received: Received) -> Reply:
        self.waiting += [thread.daemon for thread in threading.enumerate() if thread.name == "fleming-blocking"]
        return Reply(403, {"error": "no"})


def test_a_role_of_aws_is_assumed_on_a_daemon_thread(
    con: Con, add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender = _Lender()
    with MockModel(lender) as server:
        monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "AKIA")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        config = {"aws_region": "us-east-1", "aws_role_arn": "arn:aws:iam::123456789012:role/caller"}
        add_endpoint(con, "chat", provider="amazon-bedrock", max_retries=0, provider_config=config)
        con.execute("select ai_query('chat', 'x', failOnError => false)").fetchall()

    assert lender.waiting[:1] == [True]


def test_googles_credentials_of_the_machine_are_asked_for_on_a_daemon_thread(
    con: Con, add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lender = _Lender()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with MockModel(lender) as server:
        account = {
            "type": "service_account",
            "client_email": "a@b",
            "private_key": key.decode(),
            "token_uri": f"{server.url}/token",
        }
        (tmp_path / "key.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        config = {"project_id": "p", "region": "us"}
        add_endpoint(con, "chat", provider="google-cloud-vertex-ai", max_retries=0, provider_config=config)
        con.execute("select ai_query('chat', 'x', failOnError => false)").fetchall()

    assert lender.waiting[:1] == [True]
