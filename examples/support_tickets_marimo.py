"""Support tickets in marimo: ask, look at usage and latency, find what failed, repair it.

Open it with `marimo edit examples/support_tickets_marimo.py`; the extra `notebook` has what it needs. The model is
simulated, so there is no key and no network.
"""

# mypy: allow-untyped-defs

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium")


@app.cell
def imports():
    import altair as alt
    import duckdb
    import marimo as mo

    import fleming_sql

    return alt, duckdb, fleming_sql, mo


@app.cell
def introduction(mo):
    mo.md("""
    # Support tickets: ask, look, repair

    `fleming_sql.attach` gives DuckDB's own connection a gateway. marimo finds it as an engine for its SQL cells, and
    while one types it asks DuckDB to explain the statement, which calls no model.
    """)
    return


@app.cell
def connection(duckdb, fleming_sql, mo):
    con = fleming_sql.attach(duckdb.connect())  # in memory; connect("tickets.duckdb") keeps tables, answers and log
    con.execute(
        "create table tickets as from read_csv(?) order by ticket_id",
        [str(mo.notebook_dir() / "data" / "support_tickets.csv")],
    )
    con.execute("""
        insert into fleming.endpoints (name, max_concurrency, max_retries) values ('chat', 32, 0);
        insert into fleming.served_entities (endpoint, name, provider, model, parameters)
        values (
            'chat', 'demo', 'simulated', 'demo',
            '{"latency_ms": {"median_ms": 50, "sigma": 0.5}, "error_rate": 0.08, "errors": ["server_error"]}'
        );
        insert into fleming.model_prices (provider, model, input_per_million, output_per_million)
        values ('simulated', 'demo', 0.4, 1.6);
    """)
    return (con,)


@app.cell
def question(con, mo):
    classified = mo.sql(
        """
        create or replace view classified as
        select
            ticket_id,
            channel,
            ai_query(
                'chat',
                'Classify this support ticket as one of: billing, delivery, defect, account, cancellation, praise, '
                    || 'feature request, privacy, spam, other. Answer with the category alone.' || chr(10) || body,
                failOnError => false,
                usageContext => {'channel': channel}
            ) as answer
        from tickets
        where body is not null
        """,
        engine=con,
    )
    return (classified,)


@app.cell
def ask(classified, con, mo):
    _ = classified  # the view has to be there
    answers = mo.sql("select * from classified", engine=con)
    return (answers,)


@app.cell
def failures(answers, con, mo):
    failed = mo.sql(
        """
        select
            ticket_id,
            answer.errorMessage as reason
        from answers
        where answer.errorMessage is not null
        order by ticket_id
        """,
        engine=con,
    )
    return (failed,)


@app.cell
def repair(con, failed, mo):
    # Another try for what failed, if anything did: tickets that have their answer get it from the log, at no cost.
    con.execute("update fleming.endpoints set max_retries = ? where name = 'chat'", [5 if len(failed) else 0])
    repaired = mo.sql("select * from classified", engine=con)
    return (repaired,)


@app.cell
def statements(con, mo, repaired):
    _ = repaired  # what this shows is there once they are
    runs = mo.sql(
        """
        select
            statement_id,
            count(*) as calls,
            count(*) filter (where cache_hit) as reused,
            count(*) filter (where status_code <> 200) as failed,
            sum(cost_usd) as cost_usd
        from fleming.serving.endpoint_usage
        group by all
        order by min(request_time)
        """,
        engine=con,
    )
    return (runs,)


@app.cell
def usage(alt, con, mo, repaired):
    _ = repaired
    by_channel = mo.sql(
        """
        select
            context_value as channel,
            calls,
            input_tokens + output_tokens as tokens,
            cost_usd
        from fleming.serving.usage_by_context
        where context_key = 'channel'
        """,
        engine=con,
        output=False,
    )
    usage_chart = (
        alt.Chart(by_channel, title="What each channel's tickets cost")
        .mark_bar()
        .encode(
            alt.X("cost_usd").title("US dollars"),
            alt.Y("channel").sort("-x"),
            tooltip=["calls", "tokens", "cost_usd"],
        )
    )
    usage_chart  # noqa: B018  the last expression is what marimo shows
    return (usage_chart,)


@app.cell
def latency(alt, con, mo, repaired):
    _ = repaired
    durations = mo.sql(
        """
        select
            execution_duration_ms as milliseconds,
            if(status_code = 200, 'answered', 'failed') as outcome
        from fleming.serving.inference
        where not cache_hit
        """,
        engine=con,
        output=False,
    )
    latency_chart = (
        alt.Chart(durations, title="How long calls took")
        .mark_bar()
        .encode(alt.X("milliseconds").bin(maxbins=30), alt.Y("count()").title("calls"), alt.Color("outcome"))
    )
    latency_chart  # noqa: B018
    return (latency_chart,)


if __name__ == "__main__":
    app.run()
