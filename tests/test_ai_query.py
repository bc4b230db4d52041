"""`ai_query` as SQL sees it: where it can stand, what it takes, what type it gives."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest
from conftest import Serve

from fleming_sql import Connection
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, completion_reply, embeddings_reply


def one(con: Any, sql: str, *parameters: Any) -> Any:
    rows = con.execute(sql, list(parameters)).fetchall()
    assert len(rows) == 1
    return rows[0][0] if len(rows[0]) == 1 else rows[0]


STATEMENTS = {
    "select list": "select ai_query('chat', t) from texts order by t",
    "where": "select t from texts where ai_query('chat', t) = 'echo: b'",
    "join condition": "select a.t from texts a join texts b on ai_query('chat', a.t) = 'echo: ' || b.t",
    "group by": "select ai_query('chat', t), count(*) from texts group by 1",
    "order by": "select t from texts order by ai_query('chat', t)",
    "common table expression": "with q as (select ai_query('chat', t) as a from texts) select a from q",
    "subquery": "select (select ai_query('chat', 'x'))",
    "case": "select case when t = 'a' then ai_query('chat', t) end from texts",
    "aggregate": "select max(ai_query('chat', t)) from texts",
    "window": "select ai_query('chat', t), row_number() over (order by t) from texts",
    "qualified": "select fleming.ai_query('chat', t) from texts",
    "list_transform": "select ai_query('chat', x) from (select unnest(list(t)) as x from texts)",
}


@pytest.fixture
def texts(con: Connection, model: MockModel) -> Connection:
    con.execute("create table texts as select * from (values ('a'), ('b')) v(t)")
    return con


@pytest.mark.parametrize("place", STATEMENTS)
def test_stands_wherever_an_expression_can(texts: Connection, place: str) -> None:
    rows = texts.execute(STATEMENTS[place]).fetchall()

    assert rows
    assert texts.execute("select count(*) from fleming.serving.inference where status_code = 200").fetchall() > [(0,)]


def test_works_in_a_view_each_time_it_is_read(texts: Connection) -> None:
    texts.execute("create view answers as select t, ai_query('chat', t) as a from texts")

    assert texts.execute("select a from answers order by t").fetchall() == [("echo: a",), ("echo: b",)]
    assert texts.execute("select a from answers where t = 'a'").fetchall() == [("echo: a",)]


def test_works_in_create_table_as_and_insert(texts: Connection) -> None:
    texts.execute("create table answers as select ai_query('chat', t) as a from texts")
    texts.execute("insert into answers select ai_query('chat', t || '!') from texts")

    assert one(texts, "select list(a order by a) from answers") == [
        "echo: a",
        "echo: a!",
        "echo: b",
        "echo: b!",
    ]


def test_works_in_merge(texts: Connection) -> None:
    texts.execute("create table answers (t varchar, a varchar)")
    texts.execute(
        "merge into answers using (select t, ai_query('chat', t) as a from texts) s on answers.t = s.t "
        "when not matched then insert values (s.t, s.a)"
    )

    assert one(texts, "select count(a) from answers") == 2


def test_works_as_a_prepared_statement_with_new_values(texts: Connection) -> None:
    texts.execute("prepare ask as select ai_query('chat', $1)")

    assert one(texts, "execute ask('x')") == "echo: x"
    assert one(texts, "execute ask('y')") == "echo: y"
    assert one(texts, "select ai_query(?, ?)", "chat", "z") == "echo: z"


def test_explain_sends_nothing(texts: Connection, model: MockModel) -> None:
    texts.execute("explain select ai_query('chat', 'x')").fetchall()
    texts.execute("explain select ai_query('chat', t) from texts").fetchall()

    assert model.request_count == 0


def test_null_request_is_null_without_a_call(con: Connection, model: MockModel) -> None:
    assert one(con, "select ai_query('chat', null)") is None
    assert one(con, "select ai_query('chat', null, failOnError => false)") is None
    assert one(con, "select ai_query('chat', null::varchar)") is None
    assert one(con, "select ai_query('chat', 'null'::json)") is None
    assert model.request_count == 0
    assert one(con, "select count(*) from fleming.serving.inference") == 0


def test_null_rows_between_others_stay_in_place(con: Connection, model: MockModel) -> None:
    rows = con.execute("select i, ai_query('chat', if(i % 3 = 0, null, 'q' || i)) from range(10) t(i)").fetchall()

    assert rows == [(i, None if i % 3 == 0 else f"echo: q{i}") for i in range(10)]
    assert model.request_count == 6


def test_struct_and_json_with_messages_are_sent_as_they_are(con: Connection, model: MockModel) -> None:
    struct = "{'messages': [{'role': 'system', 'content': 'be brief'}, {'role': 'user', 'content': 'hi'}]}"
    document = '{"messages": [{"role": "user", "content": "hello"}], "top_k": 5}'

    assert one(con, f"select ai_query('chat', {struct})") == "echo: hi"
    assert one(con, "select ai_query('chat', ?::json)", document) == "echo: hello"
    first, second = (received.json() for received in model.requests)
    assert first["messages"][0] == {"role": "system", "content": "be brief"}
    assert second["top_k"] == 5


def test_only_what_was_set_is_sent(con: Connection, model: MockModel) -> None:
    one(con, "select ai_query('chat', 'x')")

    assert model.requests[0].json() == {"model": "mock", "messages": [{"role": "user", "content": "x"}]}


def test_call_parameters_win_over_the_endpoints_and_those_over_the_entitys(con: Connection, serve: Serve) -> None:
    server = serve(
        default_parameters={"temperature": 0.5, "top_p": 0.9},
        parameters={"top_p": 0.1, "presence_penalty": 1},
    )

    one(con, "select ai_query('chat', 'x', modelParameters => {'temperature': 0.0, 'max_tokens': 7.0})")

    sent = server.requests[0].json()
    assert {key: sent[key] for key in ("temperature", "top_p", "presence_penalty", "max_tokens")} == {
        "temperature": 0.0,
        "top_p": 0.9,
        "presence_penalty": 1,
        "max_tokens": 7,
    }


TYPES = [
    ("'INT'", "42", "INTEGER", 42),
    ("'BOOLEAN'", "true", "BOOLEAN", True),
    ("'DOUBLE'", " 1.5\n", "DOUBLE", 1.5),
    ("'DECIMAL(10,2)'", "1.25", "DECIMAL(10,2)", None),
    ("'ARRAY<STRING>'", '["a", "b"]', "VARCHAR[]", ["a", "b"]),
    ("'VARCHAR[]'", '```json\n["a"]\n```', "VARCHAR[]", ["a"]),
    (
        "'STRUCT<a: INT, c: ARRAY<STRUCT<d: DOUBLE>>>'",
        '{"a": 1, "c": [{"d": 2}]}',
        None,
        {"a": 1, "c": [{"d": 2.0}]},
    ),
    ("'STRUCT(a INT, b VARCHAR[])'", '{"a": 1, "b": ["x"]}', None, {"a": 1, "b": ["x"]}),
    ("'MAP<STRING, INT>'", '{"x": 1}', "MAP(VARCHAR, INTEGER)", {"x": 1}),
    ("'STRING'", "plain", "VARCHAR", "plain"),
    ("'ENUM(''yes'', ''no'')'", "yes", "ENUM('yes', 'no')", "yes"),
]


@pytest.mark.parametrize(("ddl", "text", "typeof", "value"), TYPES)
def test_return_type_gives_a_real_type(
    con: Connection, serve: Serve, ddl: str, text: str, typeof: str | None, value: Any
) -> None:
    serve(lambda received: chat_reply(text))

    got_type, got = one(con, f"select typeof(a), a from (select ai_query('chat', 'x', returnType => {ddl}) as a)")

    assert typeof is None or got_type == typeof
    assert value is None or got == value


def test_fail_on_error_false_gives_result_and_message(con: Connection, serve: Serve) -> None:
    def fail_on_b(received: Received) -> Reply:
        text = received.json()["messages"][0]["content"]
        return Reply(status=400, body={"error": {"message": "no b"}}) if text == "b" else chat_reply(text)

    serve(fail_on_b)

    rows = con.execute(
        "select t, r.result, r.errorMessage, typeof(r) from (select t, ai_query('chat', t, failOnError => false) as r "
        "from (values ('a'), ('b'), ('c')) v(t)) order by t"
    ).fetchall()

    assert [(row[0], row[1]) for row in rows] == [("a", "a"), ("b", None), ("c", "c")]
    assert rows[0][2] is None
    assert "no b" in rows[1][2]
    assert rows[0][3].replace('"', "") == "STRUCT(result VARCHAR, errorMessage VARCHAR)"


def test_first_failure_fails_the_statement_and_stops_new_sends(con: Connection, serve: Serve) -> None:
    def fail(received: Received) -> Reply:
        is_first = received.json()["messages"][0]["content"] == "q0"
        return Reply(status=400, body={"error": {"message": "bad"}}) if is_first else chat_reply("ok").delayed(0.3)

    server = serve(fail, max_concurrency=10)

    with pytest.raises(duckdb.Error, match="REMOTE_FUNCTION_HTTP_FAILED_ERROR"):
        con.execute("select ai_query('chat', 'q' || i) from range(500) t(i)").fetchall()

    assert server.request_count <= 20
    logged = dict(con.execute("select status_code, count(*) from fleming.serving.inference group by 1").fetchall())
    assert logged[400] == 1
    assert sum(logged.values()) == server.request_count


def test_response_format_ddl_gives_the_inner_struct(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: chat_reply('```json\n{"name": "kettle", "price": 12}\n```'))

    kind, value = one(
        con,
        "select typeof(a), a from (select ai_query('chat', 'x', "
        "responseFormat => 'STRUCT<product: STRUCT<name: STRING, price: DOUBLE>>') as a)",
    )

    assert value == {"name": "kettle", "price": 12.0}
    assert kind.startswith("STRUCT(")
    sent = server.requests[0].json()["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["name"] == "product"
    assert set(sent["json_schema"]["schema"]["properties"]) == {"name", "price"}


def test_response_format_json_gives_json_text(con: Connection, serve: Serve) -> None:
    serve(lambda received: chat_reply('```\n{"a": 1}\n```'))

    assert json.loads(one(con, """select ai_query('chat', 'x', responseFormat => '{"type":"json_object"}')""")) == {
        "a": 1
    }


SCHEMA = json.dumps(
    {
        "type": "json_schema",
        "json_schema": {
            "name": "n",
            "strict": True,
            "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        },
    }
)


def test_an_answer_that_breaks_the_schema_is_asked_for_again_with_the_reason(con: Connection, serve: Serve) -> None:
    answers = iter(['{"n": "many"}', '{"n": 3}'])
    server = serve(lambda received: chat_reply(next(answers)))

    assert json.loads(one(con, "select ai_query('chat', 'x', responseFormat => ?)", SCHEMA)) == {"n": 3}

    again = server.requests[1].json()["messages"]
    assert again[1] == {"role": "assistant", "content": '{"n": "many"}'}
    assert "does not fit" in again[2]["content"]
    reasons = con.execute("select reason from fleming.serving.attempts order by started_at").fetchall()
    assert reasons == [("first",), ("schema_mismatch",)]
    assert one(con, "select input_token_count, output_token_count from fleming.serving.endpoint_usage") == (
        18,
        6,
    )


def test_an_answer_that_breaks_the_schema_twice_is_an_error(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: chat_reply("no json at all"))

    with pytest.raises(duckdb.Error, match="AI_FUNCTION_JSON_PARSE_ERROR"):
        one(con, "select ai_query('chat', 'x', responseFormat => ?)", SCHEMA)

    assert server.request_count == 2


def test_an_answer_that_cannot_be_cast_is_an_error_without_a_second_call(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: chat_reply("forty-two"))

    with pytest.raises(duckdb.Error, match=r"AI_FUNCTION_HTTP_PARSE_CAST_ERROR.*forty-two"):
        one(con, "select ai_query('chat', 'x', returnType => 'INT')")

    assert server.request_count == 1
    assert one(con, "select status_code, error_code, response is not null from fleming.serving.inference") == (
        422,
        "INVALID_RESPONSE",
        True,
    )


def test_embeddings_are_floats_and_share_requests(con: Connection, serve: Serve) -> None:
    server = serve(
        lambda received: embeddings_reply(
            [[float(len(text)), 1.0] for text in received.json()["input"]], prompt_tokens=40
        ),
        name="embed",
        task="llm/v1/embeddings",
    )

    rows = con.execute("select ai_query('embed', repeat('x', i::int + 1)) from range(4) t(i)").fetchall()

    assert rows == [([float(i + 1), 1.0],) for i in range(4)]
    assert server.request_count == 1
    assert one(con, "select typeof(ai_query('embed', 'x'))") == "FLOAT[]"
    usage = "select sum(input_token_count), count(*) from fleming.serving.endpoint_usage where not cache_hit"
    assert one(con, usage) == (40, 4)
    attempts = con.execute("select inputs from fleming.serving.attempts order by inputs").fetchall()
    assert attempts == [(4,)]


def test_a_list_of_texts_gives_a_list_of_vectors(con: Connection, serve: Serve) -> None:
    serve(
        lambda received: embeddings_reply([[float(len(text))] for text in received.json()["input"]]),
        name="embed",
        task="llm/v1/embeddings",
    )

    kind, value = one(con, "select typeof(e), e from (select ai_query('embed', ['a', 'bbb']) as e)")

    assert kind == "FLOAT[][]"
    assert value == [[1.0], [3.0]]


def test_an_embeddings_request_too_large_for_the_provider_is_halved(con: Connection, serve: Serve) -> None:
    def at_most_three(received: Received) -> Reply:
        texts = received.json()["input"]
        if len(texts) > 3:
            return Reply(status=413, body={"error": {"message": "too large"}})
        return embeddings_reply([[float(text)] for text in texts])

    serve(at_most_three, name="embed", task="llm/v1/embeddings")

    rows = con.execute("select ai_query('embed', i::varchar) from range(10) t(i)").fetchall()

    assert rows == [([float(i)],) for i in range(10)]


@pytest.mark.parametrize(("spoilt", "answered"), [({7}, 199), ({7, 90}, 198)])
def test_one_text_that_is_refused_does_not_take_the_others_of_its_request_with_it(
    con: Connection, serve: Serve, spoilt: set[int], answered: int
) -> None:
    def reply(received: Received) -> Reply:
        texts = received.json()["input"]
        if spoilt & set(map(int, texts)):
            return Reply(status=400, body={"error": {"message": "a text is empty"}})
        return embeddings_reply([[float(text)] for text in texts])

    server = serve(reply, name="embed", task="llm/v1/embeddings")

    asked = "select ai_query('embed', i::varchar, failOnError => false) as r from range(200) t(i)"

    assert one(con, f"select count(r.result) from ({asked})") == answered
    assert server.request_count <= 33


def test_what_is_wrong_with_each_text_of_a_request_is_found_out_with_few_more(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: Reply(status=400, body={}), name="embed", task="llm/v1/embeddings")

    con.execute("select ai_query('embed', i::varchar, failOnError => false) from range(200) t(i)").fetchall()

    assert server.request_count == 33


def test_completions_take_a_prompt(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: completion_reply("and so on"), name="old", task="llm/v1/completions")

    assert one(con, "select ai_query('old', 'Once')") == "and so on"
    assert server.requests[0].json()["prompt"] == "Once"
    assert server.requests[0].path == "/completions"


def test_a_struct_goes_to_a_custom_model_as_it_is(con: Connection, add_endpoint: Any) -> None:
    add_endpoint(con, "spam", provider="simulated", task="custom")

    answer = one(con, "select ai_query('spam', {'subject': 'You won', 'score': 1.5}, returnType => 'JSON')")

    assert answer is not None
    sent = json.loads(one(con, "select request from fleming.serving.inference"))
    assert sent["dataframe_records"][0] == {"subject": "You won", "score": 1.5}


PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8


def test_a_picture_becomes_an_image_part(con: Connection, model: MockModel) -> None:
    assert one(con, "select ai_query('chat', 'what is it', files => ?::blob)", PNG) == "echo: what is it"

    parts = model.requests[0].json()["messages"][0]["content"]
    assert parts[0] == {"type": "text", "text": "what is it"}
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"%PDF-1.7 ...", "PDF"), (b"GIF89a", "GIF"), (b"hello.png", "not its path"), (b"\0\1\2", "00 01 02")],
)
def test_other_files_are_an_error_that_names_what_was_found(
    con: Connection, model: MockModel, data: bytes, found: str
) -> None:
    with pytest.raises(duckdb.Error, match=found):
        one(con, "select ai_query('chat', 'x', files => ?::blob)", data)

    assert model.request_count == 0


@pytest.mark.parametrize("context", ["map {'team': 'growth', 'run': '7'}", "{'team': 'growth', 'run': 7}"])
def test_usage_context_lands_in_the_usage_row(con: Connection, model: MockModel, context: str) -> None:
    one(con, f"select ai_query('chat', 'x', usageContext => {context})")

    assert one(con, "select usage_context['team'], usage_context['run'] from fleming.serving.endpoint_usage") == (
        "growth",
        "7",
    )


def test_usage_context_may_differ_from_row_to_row(con: Connection, model: MockModel) -> None:
    con.execute(
        "select ai_query('chat', 'x' || i, usageContext => map {'i': i::varchar}) from range(3) t(i)"
    ).fetchall()

    assert one(
        con, "select list(usage_context['i'] order by usage_context['i']) from fleming.serving.endpoint_usage"
    ) == ["0", "1", "2"]


def test_cache_false_switches_reuse_off(con: Connection, model: MockModel) -> None:
    for _ in range(2):
        con.execute("select ai_query('chat', 'same', cache => false) from range(3)").fetchall()

    assert model.request_count == 6


@pytest.mark.parametrize(
    "content",
    ["", "a" * 100_000, "emoji 🧑‍🚀 and عربى", "nul \0 inside", 'quotes " and \\ and \n'],
    ids=["empty", "long", "unicode", "nul", "escapes"],
)
def test_text_goes_there_and_back_unchanged(con: Connection, model: MockModel, content: str) -> None:
    assert one(con, "select ai_query('chat', ?)", content) == f"echo: {content}"


def test_a_model_that_answers_with_broken_surrogates_is_read(con: Connection, serve: Serve) -> None:
    body = b'{"choices": [{"message": {"content": "a \\ud83d b"}, "finish_reason": "stop"}]}'
    serve(lambda received: Reply(body=body, headers={"content-type": "application/json"}))

    assert one(con, "select ai_query('chat', 'x')") == "a \ufffd b"


def test_a_request_with_broken_surrogates_is_refused_by_duckdb(con: Connection, model: MockModel) -> None:
    document = r'{"messages": [{"role": "user", "content": "a \ud800 b"}]}'

    with pytest.raises(duckdb.Error, match="surrogate"):
        con.execute("select ai_query('chat', ?::json)", [document])
    with pytest.raises((duckdb.Error, RuntimeError)):  # RuntimeError before DuckDB 2
        con.execute("select ai_query('chat', ?)", ["a \ud800 b"])
    assert model.request_count == 0


@pytest.mark.parametrize("text_format", ["text", '{"type": "text"}'])
def test_the_format_text_is_text(con: Connection, model: MockModel, text_format: str) -> None:
    assert one(con, "select ai_query('chat', 'x', responseFormat => ?)", text_format) == "echo: x"
    assert "response_format" not in model.requests[0].json()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_either_name_of_the_token_limit_is_sent(con: Connection, model: MockModel, name: str) -> None:
    one(con, f"select ai_query('chat', 'x', modelParameters => {{'{name}': 9}})")

    assert model.requests[0].json()[name] == 9


def test_a_ten_megabyte_prompt_is_sent_whole(con: Connection, model: MockModel) -> None:
    assert one(con, "select length(ai_query('chat', repeat('x', 10000000)))") == 10_000_006
    codes = one(con, "select logging_error_codes from fleming.serving.inference")
    assert codes == ["MAX_REQUEST_SIZE_EXCEEDED", "MAX_RESPONSE_SIZE_EXCEEDED"]


def test_calls_may_be_nested(con: Connection, model: MockModel) -> None:
    assert one(con, "select ai_query('chat', upper(ai_query('chat', 'in')))") == "echo: ECHO: IN"


def test_a_macro_of_ones_own_may_wrap_it(con: Connection, model: MockModel) -> None:
    con.execute("create macro explain_it(text) as ai_query('chat', 'Explain: ' || text)")
    con.execute("create macro typed(text, kind := 'VARCHAR') as ai_query('chat', text, returnType := kind)")

    assert con.execute("select explain_it(t) from (values ('a'), ('b')) v(t)").fetchall() == [
        ("echo: Explain: a",),
        ("echo: Explain: b",),
    ]
    assert one(con, "select typed('x')") == "echo: x"


def test_a_number_is_sent_digit_by_digit(con: Connection, model: MockModel) -> None:
    assert one(con, "select ai_query('chat', 170141183460469231731687303715884105727)") == (
        "echo: 170141183460469231731687303715884105727"
    )
