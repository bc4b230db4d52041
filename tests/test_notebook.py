"""Notebooks, as far as a shell in this process can tell: magics and JupySQL, against a model that counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest
from conftest import AddEndpoint
from IPython.core.interactiveshell import InteractiveShell
from sql.connection import ConnectionManager

import fleming_sql
from fleming_sql.notebook.cell import run_cell
from fleming_sql.notebook.result import AiResult
from fleming_sql.notebook.spending import Spending
from fleming_sql.progress.figures import money
from fleming_sql.testing import MockModel, Received, Reply, echo_chat, error_reply

Con = fleming_sql.Connection
ASK_THREE = "select range as n, ai_query('chat', 'Ticket ' || range) as answer from range(3)"


PRICED = """
    insert into fleming.model_prices (provider, model, input_per_million, output_per_million)
    values ('openai', 'mock', 1000, 1000)
"""


class Notebook:
    """Cells that run in this process."""

    def __init__(self) -> None:
        self.shell: Any = InteractiveShell()  # type: ignore[no-untyped-call]
        self.variables: dict[str, Any] = self.shell.user_ns

    def run(self, cell: str) -> Any:
        """Run a cell and return its value; an error is raised."""
        done = self.shell.run_cell(cell)
        done.raise_error()
        return done.result

    def fail(self, cell: str) -> str:
        """Run a cell and return what IPython shows of its error."""
        done = self.shell.run_cell(cell)
        error = done.error_in_exec
        assert error is not None, "the cell did not fail"
        return "\n".join(error._render_traceback_())


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    monkeypatch.setattr(ConnectionManager, "current", None)  # JupySQL keeps it for the process
    yield Notebook()
    fleming_sql.detach(duckdb.default_connection())


@pytest.fixture
def loaded(notebook: Notebook, con: Con) -> Notebook:
    """A notebook that has the extension and the connection `con`."""
    notebook.variables["con"] = con
    notebook.run("%load_ext fleming_sql")
    return notebook


def test_a_cell_shows_its_rows_and_what_they_came_to(loaded: Notebook, con: Con, model: MockModel) -> None:
    con.execute("insert into fleming.model_prices (provider, model, input_per_million) values ('openai', 'mock', 1000)")
    con.execute("update fleming.model_prices set output_per_million = 1000 where model = 'mock'")

    result = loaded.run(f"%%ai_sql\n{ASK_THREE}")

    assert model.request_count == 3
    assert result.df()["answer"].tolist() == ["echo: Ticket 0", "echo: Ticket 1", "echo: Ticket 2"]
    [(tokens, cost)] = con.execute(
        "select sum(input_token_count + output_token_count), sum(cost_usd) from fleming.serving.endpoint_usage"
    ).fetchall()
    assert f"3 rows · 3 calls · {tokens} tokens · ${cost:.3f}" in result.footer
    for shown in (repr(result), result._repr_html_()):
        assert result.footer in shown
        assert "Ticket 2" in shown


def test_what_a_cell_came_to_is_that_of_its_own_statements(loaded: Notebook, model: MockModel) -> None:
    loaded.run(f"%%ai_sql\n{ASK_THREE}")

    result = loaded.run("%%ai_sql\nselect ai_query('chat', 'a');\nselect ai_query('chat', 'b') as b, 'c' as c")

    assert result.spending.calls == 2
    assert result.arrow().column_names == ["b", "c"]
    assert loaded.run("%ai_sql select 1").spending.calls == 0


def test_a_cell_that_runs_again_is_free_and_says_so(loaded: Notebook, model: MockModel) -> None:
    loaded.run(f"%%ai_sql\n{ASK_THREE}")

    again = loaded.run(f"%%ai_sql\n{ASK_THREE}")

    assert model.request_count == 3
    assert "3 calls, 3 reused · 0 tokens · $0" in again.footer


def test_showing_and_converting_a_result_asks_for_nothing_even_where_nothing_may_be_reused(
    loaded: Notebook, model: MockModel
) -> None:
    result = loaded.run("%ai_sql select ai_query('chat', 'Ticket ' || range, cache => false) as a from range(3)")

    repr(result), result._repr_html_(), result.df(), result.pl(), result.arrow(), len(result)

    assert model.request_count == 3


def test_a_relation_that_is_shown_and_then_read_is_paid_once(con: Con, model: MockModel) -> None:
    relation = con.sql(ASK_THREE)

    shown = (
        repr(relation),
        repr(relation),
        relation.fetchall(),
        relation.df(),
        relation.pl(),
        relation.to_arrow_table(),
    )

    assert len(shown) == 6
    assert model.request_count == 3


def test_a_stored_result_converts_and_is_found_by_duckdb(loaded: Notebook, con: Con, model: MockModel) -> None:
    loaded.run(f"%%ai_sql --out answers\n{ASK_THREE}")

    answers = loaded.variables["answers"]
    assert isinstance(answers.df(), pd.DataFrame)
    assert isinstance(answers.pl(), pl.DataFrame)
    assert answers.pl().shape == (3, 2)
    assert answers.arrow().num_rows == 3
    assert pl.DataFrame(answers).shape == (3, 2)
    assert loaded.run("%ai_sql select max(n) as n from answers").arrow().to_pylist() == [{"n": 2}]


def test_variables_are_bound_and_not_pasted(loaded: Notebook, model: MockModel) -> None:
    loaded.variables["greeting"] = "'; drop table x; --"
    loaded.variables["frame"] = pd.DataFrame({"n": [1, 2]})

    result = loaded.run("%%ai_sql\nselect ai_query('chat', $greeting || n) as a from frame order by n")

    assert result.pl()["a"].to_list() == ["echo: '; drop table x; --1", "echo: '; drop table x; --2"]


@pytest.mark.parametrize("cell", ["%ai_sql {}", "%%ai_sql\n{}", "answered = %ai_sql {}"])
def test_a_quote_in_a_variable_is_no_sql_in_a_line_either(
    loaded: Notebook, con: Con, model: MockModel, cell: str
) -> None:
    loaded.variables["review"] = review = "''), (select 'injected')) --{review} $$"

    loaded.run(cell.replace("{}", "select ai_query('chat', $review) as a"))

    [(asked,)] = con.execute("select request->>'$.messages[0].content' from fleming.serving.inference").fetchall()
    assert asked == review


def test_braces_and_dollars_in_a_line_of_sql_stay_as_they_are(loaded: Notebook, model: MockModel) -> None:
    loaded.variables.update(n=7, price=5)

    result = loaded.run("%ai_sql select '{n} costs $price' as text, $n as bound")

    assert result.arrow().to_pylist() == [{"text": "{n} costs $price", "bound": 7}]


def test_a_variable_is_not_pasted_into_a_choice_of_connection(loaded: Notebook, con: Con) -> None:
    loaded.variables["which"] = "con"

    assert "--connection {which}: no variable of this notebook has that name" in loaded.fail(
        "%fleming --connection {which}"
    )


@pytest.mark.parametrize("cell", ["%%ai_sql --help", "%%ai_sql --help\nselect 1", "%ai_sql -h", "%fleming --help"])
def test_help_is_shown_where_it_is_asked_for(loaded: Notebook, capsys: pytest.CaptureFixture[str], cell: str) -> None:
    loaded.run("%reload_ext fleming_sql")
    capsys.readouterr()

    loaded.run(cell)

    assert "--connection" in capsys.readouterr().out


def test_unloading_takes_the_help_away_too(loaded: Notebook) -> None:
    loaded.run("%unload_ext fleming_sql")

    assert "ai_sql" not in str(loaded.shell.input_transformers_cleanup)
    assert loaded.shell.transform_cell("%%ai_sql --help") == "get_ipython().run_cell_magic('ai_sql', '--help', '')\n"


def test_a_statement_without_rows_shows_what_it_came_to(loaded: Notebook, model: MockModel) -> None:
    result = loaded.run(f"%%ai_sql\ncreate table answers as {ASK_THREE}")

    assert repr(result).startswith("3 calls · ")
    assert result.arrow().num_columns == 0


def test_html_of_answers_is_shown_as_text_and_cut(loaded: Notebook, model: MockModel) -> None:
    html = loaded.run(
        "%ai_sql select ai_query('chat', '<script>x</script>' || repeat('y', 500)) as a, null as n from range(50)"
    )._repr_html_()

    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "y" * 300 not in html
    assert "first 40 of 50 rows" in html


def test_temporary_tables_and_open_transactions_are_the_connections_own(
    loaded: Notebook, con: Con, model: MockModel
) -> None:
    con.execute("create temp table here as select 'Hello' as text")

    assert len(loaded.run("%ai_sql select ai_query('chat', text) from here")) == 1


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%ai_sql select ai_query('nope', 'a')", '[RESOURCE_DOES_NOT_EXIST] there is no endpoint "nope"'),
        ("%ai_sql select ai_query('chat', 'a', returnType => 'nope')", "no type that an answer can have"),
        ("%ai_sql selec 1", "syntax error"),
        ("%ai_sql select $nobody", "the parameter $nobody has no value: no variable of this notebook is called nobody"),
        ("%ai_sql select ?", "write $name with the name of one, not ? or $1"),
        ("%ai_sql --connection nope select 1", "no variable of this notebook has that name; con would do"),
        ("%ai_sql --connection ASK select 1", "the variable holds no DuckDB connection but str"),
        ("%ai_sql --nope x select 1", "--nope is no option: there are --connection NAME and --out NAME"),
        ("%ai_sql --out 1x select 1", "cannot be the name of a variable"),
        ("%ai_sql --out con select 1", "the variable con holds a connection, which it would replace; name another"),
        ("%ai_sql", "there is no SQL"),
        ("%%ai_sql select 1\nselect 2", "the SQL of %%ai_sql starts on the second line"),
        ("%fleming con", "%fleming takes --connection"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_frames(
    loaded: Notebook, model: MockModel, cell: str, words: str
) -> None:
    loaded.variables["ASK"] = "text"

    shown = loaded.fail(cell)

    assert words in shown
    assert "Traceback" not in shown
    assert ".py" not in shown
    assert model.request_count == 0


def test_an_error_says_what_had_been_paid_for_before(loaded: Notebook, con: Con, add_endpoint: AddEndpoint) -> None:
    def reply(received: Received) -> Reply:
        return error_reply(400, "no") if "Ticket 2" in str(received.json) else echo_chat(received)

    with MockModel(reply) as model:
        add_endpoint(con, base_url=model.url, max_concurrency=1, max_retries=0)
        shown = loaded.fail(f"%%ai_sql\n{ASK_THREE}")

        assert "The cell came to: 3 calls, 1 failed" in shown
        assert "Answers that came are used again" in shown
        loaded.fail(f"%%ai_sql\n{ASK_THREE}")
        assert model.request_count == 4


def test_an_error_says_what_was_paid_for_an_answer_that_could_not_be_used(
    loaded: Notebook, con: Con, model: MockModel
) -> None:
    con.execute(PRICED)

    shown = loaded.fail("%ai_sql select ai_query('chat', 'a', returnType => 'INT')")

    [(cost, tokens)] = con.execute(
        "select sum(cost_usd), sum(input_token_count + output_token_count) from fleming.serving.endpoint_usage"
    ).fetchall()
    assert cost > 0
    assert f"The cell came to: 1 call, 1 failed · {tokens} tokens · {money(cost)}." in shown
    assert "used again" not in shown


def test_calls_that_were_broken_off_are_told_apart_and_are_no_reason_to_insert_a_price(
    loaded: Notebook, con: Con, add_endpoint: AddEndpoint
) -> None:
    con.execute(PRICED)

    def reply(received: Received) -> Reply:
        return echo_chat(received) if "Ticket 0" in str(received.json()) else Reply(hang=True)

    with MockModel(reply) as model:
        add_endpoint(con, base_url=model.url, max_concurrency=2, max_retries=0)
        stopper = threading.Thread(target=_interrupt_at, args=(con, model, 3))
        stopper.start()
        shown = loaded.fail(f"%%ai_sql\n{ASK_THREE}")
        stopper.join()

    assert "The cell came to: 3 calls, 2 broken off, their cost is not known · " in shown
    assert "tokens · at least $" in shown
    assert "failed" not in shown
    assert "config_problems" not in shown


def _interrupt_at(con: Con, model: MockModel, requests: int) -> None:
    model.wait_until(lambda server: server.request_count == requests and server.in_flight == 2)
    con.interrupt()


@pytest.mark.parametrize(
    ("spending", "words"),
    [
        ({"failed": 1, "cost_usd": None, "unknown": 1}, "2 calls, 1 failed · 0 tokens · cost unknown"),
        (
            {"cost_usd": 0.0, "unknown": 1, "unpriced": 1},
            "cost unknown (fleming.config_problems has the price to insert)",
        ),
        ({"cost_usd": 0.5, "unknown": 1, "unpriced": 1}, "2 calls · 0 tokens · at least $0.50"),
        ({"broken_off": 2, "cost_usd": 0.0}, "2 calls, 2 broken off · 0 tokens · $0"),
        (
            {"broken_off": 2, "cost_usd": None, "unknown": 2, "unknown_broken_off": 2},
            "2 calls, 2 broken off, their cost is not known · 0 tokens",
        ),
    ],
)
def test_an_unknown_cost_is_told_with_its_cause(spending: dict[str, Any], words: str) -> None:
    assert Spending(calls=2, **spending).words().endswith(words)


def test_a_model_without_a_price_is_said_to_need_one(loaded: Notebook, model: MockModel) -> None:
    assert "config_problems has the price" in loaded.run(f"%%ai_sql\n{ASK_THREE}").footer


def test_an_error_within_a_transaction_is_told_as_any_other(loaded: Notebook, con: Con, model: MockModel) -> None:
    con.execute("begin")

    shown = loaded.fail("%ai_sql select ai_query('chat', 'a', returnType => 'INT')")

    assert "[AI_FUNCTION_HTTP_PARSE_CAST_ERROR]" in shown
    con.execute("rollback")


@pytest.mark.parametrize("name", ["con", "conn", "warehouse"])
def test_the_connection_is_found_by_its_usual_name_or_as_the_only_one(notebook: Notebook, name: str) -> None:
    with duckdb.connect() as con:
        notebook.variables[name] = con
        notebook.run("%load_ext fleming_sql")

        notebook.run("%ai_sql create table made_here as select 1")

        assert con.execute("from made_here").fetchall() == [(1,)]
        fleming_sql.detach(con)


def test_without_a_connection_duckdbs_default_one_is_taken_and_named(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.run("%load_ext fleming_sql")

    assert "duckdb's default connection, in memory" in capsys.readouterr().out
    notebook.run("%ai_sql create or replace table made_here as select 1")
    assert duckdb.execute("from made_here").fetchall() == [(1,)]
    duckdb.sql("drop table made_here")


def test_of_several_connections_one_has_to_be_named(notebook: Notebook, con: Con) -> None:
    with fleming_sql.connect() as other:
        notebook.variables.update(first=con, second=other)

        assert "say which with --connection first or second" in notebook.fail("%load_ext fleming_sql")
        notebook.variables["con"] = con
        notebook.run("%load_ext fleming_sql")
        notebook.run("%fleming --connection second")
        notebook.run("%ai_sql create table made_here as select 1")
        assert other.execute("from made_here").fetchall() == [(1,)]


def test_a_closed_connection_is_said_to_be_closed(notebook: Notebook) -> None:
    notebook.variables["con"] = con = duckdb.connect()
    con.close()

    assert "con: " in notebook.fail("%load_ext fleming_sql")


def test_loading_twice_does_no_harm_and_unloading_takes_the_magics_away(loaded: Notebook, model: MockModel) -> None:
    loaded.run("%load_ext fleming_sql")
    loaded.run("%reload_ext fleming_sql")
    assert len(loaded.run(f"%%ai_sql\n{ASK_THREE}")) == 3

    loaded.run("%unload_ext fleming_sql")

    assert loaded.shell.find_cell_magic("ai_sql") is None
    assert loaded.shell.find_line_magic("fleming") is None
    assert loaded.variables["con"].sql(ASK_THREE).fetchall()


@pytest.mark.parametrize("kind", ["fleming_sql", "duckdb"])
def test_jupysql_runs_on_a_connection_with_a_gateway(notebook: Notebook, add_endpoint: AddEndpoint, kind: str) -> None:
    con = fleming_sql.connect() if kind == "fleming_sql" else fleming_sql.attach(duckdb.connect())
    with MockModel(echo_chat) as model:
        add_endpoint(con, base_url=model.url)
        notebook.variables["mine"] = con
        notebook.run("%load_ext sql")
        notebook.run("%config SqlMagic.feedback = 0")
        notebook.run("%sql mine")

        line = notebook.run("%sql select ai_query('chat', 'Hello') as a")
        notebook.run(f"%%sql\n{ASK_THREE}")
        notebook.run(f"%%sql\n{ASK_THREE}")

        assert list(line.DataFrame()["a"]) == ["echo: Hello"]
        assert model.request_count == 4
        del notebook.variables["mine"]
        notebook.run("%load_ext fleming_sql")
        assert notebook.run(f"%%ai_sql\n{ASK_THREE}").spending.reused == 3
    fleming_sql.detach(con)
    con.close()


def test_an_empty_result_can_be_shown() -> None:
    import pyarrow as pa

    assert repr(AiResult(pa.table({"a": []}), Spending(), 0.1)).endswith("0 rows · no calls · 0.1 s")


def test_values_that_python_has_no_form_for_are_shown_as_duckdb_writes_them() -> None:
    with fleming_sql.connect() as con:
        shown = run_cell(con, "select 'infinity'::timestamp as a, interval 1 month as b, date '290000-01-01' as c", {})
    assert [text in shown._repr_html_() for text in ("infinity", "1 month", "290000-01-01")] == [True] * 3


def test_a_cell_can_end_a_transaction_that_failed() -> None:
    with fleming_sql.connect() as con:
        con.execute("begin")
        with pytest.raises(duckdb.Error):
            con.execute("select error('x')")
        run_cell(con, "rollback", {})
        assert len(run_cell(con, "select 1 as a", {})) == 1
