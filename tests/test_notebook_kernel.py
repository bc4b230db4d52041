"""Notebooks as they are used: a Jupyter kernel in a process of its own, marimo, and the examples run to their end."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import duckdb
import marimo as mo
import nbformat
import pytest
from conftest import AddEndpoint
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from marimo._sql.get_engines import get_engines_from_variables
from marimo._types.ids import VariableName
from nbclient import NotebookClient

import fleming_sql
from fleming_sql.testing import MockModel, Received, Reply, echo_chat

ROOT: Final = Path(__file__).resolve().parent.parent
EXAMPLES: Final = ROOT / "examples"
CONNECT: Final = """
import fleming_sql
con = fleming_sql.connect()
con.execute("insert into fleming.endpoints (name, max_concurrency) values ('chat', 4)")
con.execute('''
    insert into fleming.served_entities (endpoint, name, provider, model, base_url)
    values ('chat', 'a', 'openai', 'm', '{url}');
    insert into fleming.model_prices (provider, model, input_per_million, output_per_million)
    values ('openai', 'm', 1000, 1000);
''')
"""
SHOWN: Final = ("display_data", "update_display_data", "clear_output", "execute_result", "stream", "error")
ASK: Final = "select ai_query('chat', 'Ticket ' || range) as answer from range(12)"


class Kernel:
    """A kernel that keeps what its cells show."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def send(self, cell: str) -> str:
        """Start a cell and return its id."""
        return str(self.client.execute(cell))

    def outputs(self, cell: str) -> list[dict[str, Any]]:
        """Return what a cell shows until it has ended."""
        shown: list[dict[str, Any]] = []
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return shown
            if message["msg_type"] in SHOWN:
                shown.append({"type": message["msg_type"], **message["content"]})

    def run(self, cell: str) -> list[dict[str, Any]]:
        return self.outputs(self.send(cell))


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    manager, client = start_new_kernel(env={**kept, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"})
    yield Kernel(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def texts(shown: list[dict[str, Any]], *types: str) -> list[str]:
    return [output["data"]["text/plain"] for output in shown if output["type"] in types]


def slowly(received: Received) -> Reply:
    return echo_chat(received).delayed(0.5)


def test_a_plain_cell_shows_a_bar_that_moves_and_leaves_one_line(kernel: Kernel) -> None:
    with MockModel(slowly) as model:
        kernel.run(CONNECT.format(url=model.url))
        shown = kernel.run(f'rows = con.execute("{ASK}").fetchall()')

    assert [output["type"] for output in shown][:2] == ["display_data", "update_display_data"]
    assert "<progress" in shown[0]["data"]["text/html"]
    drawn = texts(shown, "display_data", "update_display_data")
    assert drawn[0].startswith(("ai_query · 4/12 calls", "ai_query · 8/12 calls"))
    assert drawn[-1].startswith("ai_query · 12/12 calls")
    assert "<progress" not in shown[-1]["data"]["text/html"]


def test_the_cost_that_a_bar_tells_is_that_of_the_log(kernel: Kernel) -> None:
    with MockModel(slowly) as model:
        kernel.run(CONNECT.format(url=model.url))
        [*_, last] = texts(kernel.run(f'rows = con.execute("{ASK}").fetchall()'), "update_display_data")
        [logged] = texts(
            kernel.run("con.sql('select sum(cost_usd) from fleming.serving.endpoint_usage').fetchall()[0][0]"),
            "execute_result",
        )

    assert f"${float(logged):.2f}" in last or f"${float(logged):.3f}" in last


def test_a_cell_of_ai_sql_has_its_figures_in_the_footer_and_no_line_besides(kernel: Kernel) -> None:
    with MockModel(slowly) as model:
        kernel.run(CONNECT.format(url=model.url) + "\n%reload_ext fleming_sql")
        shown = kernel.run(f"%%ai_sql\n{ASK}")

    *drawn, cleared, result = shown
    assert {output["type"] for output in drawn} == {"display_data", "update_display_data"}
    assert (cleared["type"], result["type"]) == ("clear_output", "execute_result")
    assert "12 rows · 12 calls · " in result["data"]["text/plain"]


@pytest.mark.parametrize("cell", [f'con.execute("{ASK}")', f"%%ai_sql\n{ASK}".replace("12", "400")])
def test_interrupting_a_cell_stops_sending_within_a_second_and_the_kernel_goes_on(kernel: Kernel, cell: str) -> None:
    def never(received: Received) -> Reply:
        return Reply(hang=True)

    with MockModel(never) as model:
        kernel.run(CONNECT.format(url=model.url) + "\n%reload_ext fleming_sql")
        running = kernel.send(cell)
        model.wait_until(lambda server: server.in_flight == 4)

        kernel.manager.interrupt_kernel()
        begin = time.monotonic()
        model.wait_until(lambda server: server.in_flight == 0)
        assert time.monotonic() - begin < 1

        shown = kernel.outputs(running)
        assert [output["type"] for output in shown if output["type"] == "error"] == ["error"]
        sent = model.request_count
        assert texts(kernel.run("6 * 7"), "execute_result") == ["42"]
        assert model.request_count == sent == 4


def test_the_jupyter_example_runs_to_its_end_and_repairs_what_failed(tmp_path: Path) -> None:
    notebook = _read(EXAMPLES / "support_tickets.ipynb")

    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(EXAMPLES)}}).execute()

    shown = ["\n".join(str(output) for output in cell.get("outputs", ())) for cell in notebook.cells]
    assert sum("vega-lite" in text for text in shown) == 2
    first, repaired = [text for text in shown if "386 calls" in text]
    assert "failed ·" in first
    assert " reused · " in repaired
    assert " failed" not in repaired.split("386 calls")[1]


def test_the_jupyter_example_is_kept_without_outputs() -> None:
    notebook = _read(EXAMPLES / "support_tickets.ipynb")

    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []


def _read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


@pytest.fixture
def marimo_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("support_tickets_marimo", EXAMPLES / "support_tickets_marimo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_marimo_example_runs_to_its_end_and_repairs_what_failed(marimo_example: ModuleType) -> None:
    _, shown = marimo_example.app.run()

    assert len(shown["failed"]) > 0
    assert [answer["errorMessage"] for answer in shown["repaired"]["answer"] if answer["errorMessage"]] == []
    [first, second] = shown["runs"].to_dicts()
    assert second["reused"] == first["calls"] - first["failed"]
    assert second["cost_usd"] < first["cost_usd"]
    assert all("$schema" in shown[name].to_dict() for name in ("usage_chart", "latency_chart"))


@pytest.fixture(params=["the default engine", "a DuckDB connection", "a Connection", "its DuckDB connection"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What marimo runs SQL cells on."""
    if request.param == "the default engine":
        yield fleming_sql.attach(duckdb.default_connection())
        fleming_sql.detach(duckdb.default_connection())
        return
    if request.param == "a DuckDB connection":
        with duckdb.connect() as con:
            yield fleming_sql.attach(con)
            fleming_sql.detach(con)
        return
    with fleming_sql.connect() as con:
        yield con if request.param == "a Connection" else con.duckdb


def test_marimo_explains_a_cell_while_one_types_without_a_call_and_runs_it_once(
    engine: Any, add_endpoint: AddEndpoint
) -> None:
    with MockModel(echo_chat) as model:
        add_endpoint(engine, base_url=model.url)
        found: Any = get_engines_from_variables([(VariableName("con"), engine)])[0][1]

        explained, error = found.execute_in_explain_mode(ASK, {})
        assert (error, model.request_count) == (None, 0)
        assert len(explained) > 0
        _, wrong = found.execute_in_explain_mode("select ai_query('chat')", {})
        assert "ai_query" in wrong

        is_default = engine is duckdb.default_connection()
        frames = [mo.sql(ASK, engine=None if is_default else engine, output=False) for _ in range(2)]
        assert [len(frame) for frame in frames] == [12, 12]
        assert model.request_count == 12


def test_describing_preparing_and_explaining_make_no_call(con: fleming_sql.Connection, model: MockModel) -> None:
    for before in ("explain", "describe", "prepare later as"):
        con.execute(f"{before} {ASK}")
    con.execute(f"create view answers as {ASK}")
    relation = con.sql("from answers")

    assert relation.columns == ["answer"]
    assert relation.types == ["VARCHAR"]
    assert con.sql("select * from duckdb_columns() where table_name = 'answers'").fetchall()
    assert model.request_count == 0
