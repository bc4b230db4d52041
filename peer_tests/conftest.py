"""Open servers of other projects, each a process of its own on 127.0.0.1, asked through `ai_query`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import fleming_sql
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, embeddings_reply, error_reply
from peer_tests.servers import serving

LITELLM_KEY: Final = "sk-peer-master"
_LITELLM: Final = """
model_list:
  - model_name: chat
    litellm_params: {{model: openai/upstream, api_base: "{upstream}", api_key: none}}
  - model_name: embed
    litellm_params: {{model: openai/upstream-embed, api_base: "{upstream}", api_key: none}}
  - model_name: busy
    litellm_params: {{model: openai/upstream-busy, api_base: "{upstream}", api_key: none}}
litellm_settings: {{num_retries: 0, telemetry: false, callbacks: []}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
general_settings: {{master_key: {key}}}
"""


@pytest.fixture
def con(monkeypatch: pytest.MonkeyPatch) -> Iterator[fleming_sql.Connection]:
    """A gateway in memory that knows the key of the LiteLLM proxy."""
    monkeypatch.setenv("PEER_KEY", LITELLM_KEY)
    with fleming_sql.connect(user="ada") as con:
        con.execute("insert into fleming.credentials values ('peer', 'env', 'PEER_KEY')")
        yield con


@pytest.fixture(scope="session")
def upstream() -> Iterator[MockModel]:
    """The model behind the proxy: it says what it was asked, and is busy where it is called so."""

    def reply(received: Received) -> Reply:
        body = received.json()
        if body["model"] == "upstream-busy":
            return error_reply(429, "slow down")
        if "input" in body and received.path.endswith("/embeddings"):
            return embeddings_reply([[0.5, 0.25]] * len(body["input"]))
        if received.path.endswith("/responses"):
            return Reply(body=_response(f"said: {_last_text(body['input'])}"))
        return chat_reply(f"said: {_last_text(body['messages'])}", cached_tokens=3, reasoning_tokens=2)

    with MockModel(reply) as server:
        yield server


def _last_text(messages: Any) -> str:
    """Return the last text of what was asked, in whichever of the forms a proxy gives it."""
    if isinstance(messages, str):
        return messages
    content = messages[-1]["content"]
    return content if isinstance(content, str) else str(content[-1]["text"])


def _response(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": "m-1", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": "resp-1",
        "object": "response",
        "created_at": 1735689600,
        "status": "completed",
        "model": "upstream",
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
    }


@pytest.fixture(scope="session")
def litellm_url(upstream: MockModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve LiteLLM's proxy."""
    folder = tmp_path_factory.mktemp("litellm")
    (folder / "config.yaml").write_text(_LITELLM.format(upstream=upstream.url, key=LITELLM_KEY), "utf-8")
    # In a virtual environment of its own: it pins what others need newer.
    program = os.environ.get("LITELLM", str(Path(sys.executable).with_name("litellm")))
    command = [program, "--config", "config.yaml", "--host", "127.0.0.1"]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    with serving(command, folder, "/health/liveliness", environment) as url:
        yield url
