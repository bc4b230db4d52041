"""Models and agents behind `mlflow models serve`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import duckdb
import pytest

from fleming_sql import Connection
from peer_tests.servers import serve_as, serving

_CUSTOM: Final = """
import mlflow, pandas


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        factor = (params or {}).get("factor", 1.0)
        return [{"label": text[:3], "score": n * factor} for text, n in zip(model_input["text"], model_input["n"])]


from mlflow.models import infer_signature

given = pandas.DataFrame({"text": ["abc"], "n": [1.5]})
signature = infer_signature(given, [{"label": "abc", "score": 1.5}], {"factor": 1.0})
mlflow.pyfunc.save_model("model", python_model=Model(), signature=signature)
"""
_AGENT: Final = """
import mlflow
from mlflow.models import set_model
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentResponse


class Agent(ResponsesAgent):
    def predict(self, request):
        said = request.input[-1].content
        text = said if isinstance(said, str) else said[0]["text"]
        item = self.create_text_output_item(text=f"heard: {text}", id="m-1")
        return ResponsesAgentResponse(output=[item], custom_outputs={"got": request.custom_inputs})


set_model(Agent())
"""
_CHAT_AGENT: Final = """
import uuid

from mlflow.models import set_model
from mlflow.pyfunc import ChatAgent
from mlflow.types.agent import ChatAgentMessage, ChatAgentResponse


class Agent(ChatAgent):
    def predict(self, messages, context=None, custom_inputs=None):
        said = ChatAgentMessage(role="assistant", content=f"heard: {messages[-1].content}", id=str(uuid.uuid4()))
        return ChatAgentResponse(messages=[said], custom_outputs=custom_inputs)


set_model(Agent())
"""
Serve = Callable[[str], str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Make a model from a script and serve it; each once."""
    urls: dict[str, str] = {}
    with ExitStack() as servers:

        def serve(kind: str) -> str:
            if kind not in urls:
                folder = tmp_path_factory.mktemp(kind)
                _save(kind, folder)
                command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "model", "--env-manager", "local"]
                urls[kind] = servers.enter_context(serving(command, folder, "/ping"))
            return urls[kind]

        yield serve


def _save(kind: str, folder: Path) -> None:
    if kind == "custom":
        script = _CUSTOM
    else:
        (folder / "agent.py").write_text({"agent": _AGENT, "chat_agent": _CHAT_AGENT}[kind], "utf-8")
        script = "import mlflow\nmlflow.pyfunc.save_model('model', python_model='agent.py')\n"
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, capture_output=True, timeout=120)


def _ask(con: Connection, request: str, options: str = "") -> Any:
    return con.execute(f"select ai_query('peer', {request}{options})").fetchall()[0][0]


def test_a_custom_model_predicts_with_the_type_that_was_asked_for(con: Connection, served: Serve) -> None:
    serve_as(con, "mlflow-model-serving", served("custom"), "", task="custom")

    answers = con.execute(
        "select ai_query('peer', {'text': 'spam' || n, 'n': n / 2}, "
        "returnType => 'STRUCT<label: STRING, score: DOUBLE>') from range(3) as r(n)"
    ).fetchall()

    assert answers == [({"label": "spa", "score": n / 2},) for n in range(3)]


@pytest.mark.parametrize("input_format", ["dataframe_records", "dataframe_split", "inputs"])
def test_each_form_that_the_model_takes(con: Connection, served: Serve, input_format: str) -> None:
    serve_as(con, "mlflow-model-serving", served("custom"), "", task="custom")
    con.execute("update fleming.served_entities set provider_config = ?", [f'{{"input_format": "{input_format}"}}'])

    answer = _ask(con, "{'text': 'spam', 'n': 1.5::double}", ", returnType => 'STRUCT<score: DOUBLE>'")

    assert answer == {"score": 1.5}


def test_parameters_of_the_entity_reach_the_model(con: Connection, served: Serve) -> None:
    serve_as(con, "mlflow-model-serving", served("custom"), "", task="custom")
    con.execute("update fleming.served_entities set parameters = '{\"factor\": 10.0}'")

    answer = _ask(con, "{'text': 'spam', 'n': 1.5::double}", ", returnType => 'STRUCT<score: DOUBLE>'")

    assert answer == {"score": 15.0}


def test_what_the_model_misses_is_told(con: Connection, served: Serve) -> None:
    serve_as(con, "mlflow-model-serving", served("custom"), "", task="custom")

    with pytest.raises(duckdb.Error, match=r"(?s)code 400.*missing inputs"):
        _ask(con, "{'text': 'spam'}", ", returnType => 'DOUBLE'")


def test_a_responses_agent_answers_with_its_text(con: Connection, served: Serve) -> None:
    serve_as(con, "mlflow-model-serving", served("agent"), "", task="agent/v1/responses")

    assert _ask(con, "'hello'") == "heard: hello"


def test_custom_inputs_come_back_as_custom_outputs(con: Connection, served: Serve) -> None:
    serve_as(con, "mlflow-model-serving", served("agent"), "", task="agent/v1/responses")
    request = "{'input': [{'role': 'user', 'content': 'a'}], 'custom_inputs': {'id': 5}, 'return_trace': true}"

    answer = _ask(con, request, ", returnType => 'STRUCT<text: STRING, custom_outputs: STRUCT<got: STRUCT<id: INT>>>'")

    assert answer == {"text": "heard: a", "custom_outputs": {"got": {"id": 5}}}


def test_a_chat_agent_answers_with_what_it_says_last(con: Connection, served: Serve) -> None:
    serve_as(con, "mlflow-model-serving", served("chat_agent"), "", task="agent/v1/chat")

    assert _ask(con, "'hello'") == "heard: hello"
