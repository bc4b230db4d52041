"""Writes the reference while the site is built: from the comments and signatures in the catalog of a fresh store.

So each meaning is written once, where SQL users read it too (`comment on …` in `sql/`), and the pages cannot be behind
the code. The examples of functions run here, on a simulated model, and a broken one fails the build.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import fleming_sql
from fleming_sql import errors
from fleming_sql.store.files import read_files

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_SCHEMAS: Final = {
    # schema: page, title, what stands above its tables
    "main": (
        "configuration",
        "Configuration",
        "What the gateway goes by, and views of it. Change the tables with plain `insert`, `update` and `delete`; a "
        "change counts from the next statement. `fleming.config_problems` says what does not fit together.",
    ),
    "serving": (
        "serving",
        "The log",
        "What calls leave behind, and views that add it up or show what is going on. Times are UTC.",
    ),
    "lake": (
        "lake",
        "Exported tables",
        "The log as it was exported to Delta tables, by this store and others. See [Delta tables](../delta.md).",
    ),
}
_DUCKDB_ERRORS: Final = (
    (
        '`The "structure" argument in function "from_json" must be a constant expression`',
        "`endpoint`, `returnType`, `failOnError` or `responseFormat` comes from a column: the type of a result is "
        "settled before the first row is read",
        "a literal, or a parameter (`$1`); for several endpoints, one `ai_query` each, as in `case when … end`",
    ),
    (
        '`Referenced column "chat" was not found`, `… because the FROM clause is missing`',
        "double quotes are for names of columns and tables",
        "single quotes: `ai_query('chat', …)`",
    ),
    (
        "`Macro ai_query() does not support the supplied arguments`",
        "an argument is missing, or has a name that does not exist, such as `return_type`",
        "one of the names that stand below it as candidates, with `=>`: `returnType => 'INT'`",
    ),
)
"""What DuckDB says before the gateway is asked: (text, cause, remedy)."""
_ENDPOINTS: Final = """
insert into fleming.endpoints (name, task) values ('chat', 'llm/v1/chat'), ('embed', 'llm/v1/embeddings');
insert into fleming.served_entities (endpoint, name, provider)
values ('chat', 'demo', 'simulated'), ('embed', 'demo', 'simulated');
"""
"""What the examples of the functions may use."""


@dataclass(frozen=True)
class Relation:
    """One table or view of the catalog."""

    schema: str
    name: str
    kind: str
    """`table` or `view`."""
    comment: str
    key: Sequence[str]
    """Columns of the primary key."""

    @property
    def full_name(self) -> str:
        """As statements name it."""
        return f"fleming.{self.name}" if self.schema == "main" else f"fleming.{self.schema}.{self.name}"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference to those of the folder. MkDocs calls it."""
    with fleming_sql.connect() as con:
        con.execute(_ENDPOINTS)
        for name, text in _pages(con):
            files.append(File.generated(config, f"reference/{name}.md", content=text))
    changes = (_ROOT / "CHANGELOG.md").read_text("utf-8")
    files.append(File.generated(config, "changelog.md", content=changes))
    return files


def _pages(con: fleming_sql.Connection) -> Iterator[tuple[str, str]]:
    relations = _relations(con)
    functions = _functions(con)
    yield "index", _index_page(relations, functions)
    yield "functions", _functions_page(con, functions)
    for schema, (page, title, about) in _SCHEMAS.items():
        own = [relation for relation in relations if relation.schema == schema]
        yield page, "\n\n".join([f"# {title}", about, *(_relation_section(con, relation) for relation in own)])
    yield "settings", _settings_page(con)
    yield "errors", _errors_page(con)


def _relations(con: fleming_sql.Connection) -> list[Relation]:
    rows = con.execute("""
        select
            r.schema_name,
            r.name,
            r.kind,
            coalesce(r.comment, ''),
            coalesce(c.constraint_column_names, [])
        from (
            select schema_name, table_name as name, 'table' as kind, comment, table_oid
            from duckdb_tables()
            where database_name = 'fleming'
            union all
            select schema_name, view_name, 'view', comment, null
            from duckdb_views()
            where database_name = 'fleming' and not internal
        ) as r
        left join duckdb_constraints() as c
            on c.database_name = 'fleming' and c.table_oid = r.table_oid and c.constraint_type = 'PRIMARY KEY'
        where not starts_with(r.name, '__')
        order by all
    """).fetchall()
    return [Relation(*row) for row in rows]


def _functions(con: fleming_sql.Connection) -> list[tuple[str, str]]:
    """Return the public functions, each with its comment."""
    rows: list[tuple[str, str]] = con.execute("""
        select function_name, any_value(coalesce(comment, ''))
        from duckdb_functions()
        where database_name = 'fleming' and not internal and not starts_with(function_name, '__')
        group by function_name
        order by function_name
    """).fetchall()
    return rows


def _index_page(relations: Sequence[Relation], functions: Sequence[tuple[str, str]]) -> str:
    lines = [
        "# Reference",
        "Made from the comments in the catalog when this site was built; a store has the same texts: "
        "`describe fleming.endpoints`, `duckdb_tables()`, `duckdb_columns()`, `duckdb_functions()`.",
        "## Functions",
        _table(
            ("function", "what it does"),
            [(f"[`{name}`](functions.md#{name})", _escape(_sentence(comment))) for name, comment in functions],
        ),
    ]
    for schema, (page, title, _) in _SCHEMAS.items():
        own = [relation for relation in relations if relation.schema == schema]
        rows = [(f"[`{r.full_name}`]({page}.md#{_anchor(r)})", r.kind, _escape(r.comment)) for r in own]
        lines += [f"## {title}", _table(("name", "", "one row"), rows)]
    return "\n\n".join(lines)


def _functions_page(con: fleming_sql.Connection, functions: Sequence[tuple[str, str]]) -> str:
    sections = [_function_section(con, name, comment) for name, comment in functions]
    return "\n\n".join(["# Functions", "Arguments with a default are optional and named: `name => value`.", *sections])


def _function_section(con: fleming_sql.Connection, name: str, comment: str) -> str:
    told, _, example = comment.partition("Example:\n")
    meaning, *paragraphs = told.strip().split("\n\n")
    returns = next(text for text in paragraphs if text.startswith("Returns: "))
    described = dict(line.split(": ", 1) for text in paragraphs if text != returns for line in text.splitlines())
    arguments = _arguments(name)
    undescribed = [argument for argument, _ in arguments if argument not in described]
    if undescribed or not example:
        raise ValueError(f"the comment on macro {name} lacks an example, or the arguments {undescribed}")
    signature = _one_a_line([argument + (f" => {default}" if default else "") for argument, default in arguments])
    rows = [
        (f"`{argument}`", f"`{default}`" if default else "", described[argument]) for argument, default in arguments
    ]
    return "\n\n".join(
        [
            f"## {name} {{: #{name} }}",
            f"```sql\n{name}({signature})\n```",
            _escape(meaning),
            _table(("argument", "default", "meaning"), [(a, d, _escape(m)) for a, d, m in rows]),
            f"**Returns** {_escape(returns.removeprefix('Returns: '))}",
            f"```sql\n{example}\n```",
            f"```text\n{str(con.sql(example)).rstrip()}\n```",
        ]
    )


def _arguments(function: str) -> list[tuple[str, str]]:
    """Return the arguments of a function with their defaults, which DuckDB's catalog does not keep."""
    for file in read_files("objects"):
        found = re.search(rf"create or replace macro {function}\((.*?)\)\s+as\b", file.text, re.DOTALL)
        if found:
            pairs = (line.strip().partition(" := ") for line in found[1].split(","))
            return [(name, default) for name, _, default in pairs]
    raise ValueError(f"no file of sql/objects creates the macro {function}")


def _relation_section(con: fleming_sql.Connection, relation: Relation) -> str:
    rows = con.execute(
        """
        select column_name, data_type, coalesce(column_default, ''), coalesce(comment, '')
        from duckdb_columns()
        where database_name = 'fleming' and schema_name = ? and table_name = ?
        order by column_index
        """,
        [relation.schema, relation.name],
    ).fetchall()
    key = f" Key: {', '.join(f'`{column}`' for column in relation.key)}." if relation.key else ""
    return "\n\n".join(
        [
            f"## {relation.full_name} {{: #{_anchor(relation)} }}",
            f"*{relation.kind.capitalize()}.* {_escape(relation.comment)}.{key}",
            _table(
                ("column", "type", "default", "meaning"),
                [
                    (f"`{name}`", f"`{_short(kind)}`", f"`{default}`" if default else "", _escape(comment))
                    for name, kind, default, comment in rows
                ],
            ),
        ]
    )


def _settings_page(con: fleming_sql.Connection) -> str:
    rows = con.execute(
        "select name, coalesce(default_value, 'NULL'), description from fleming.settings_in_effect order by name"
    ).fetchall()
    return "\n\n".join(
        [
            "# Settings",
            "Set one with a row of `fleming.settings`; `fleming.settings_in_effect` shows what holds.",
            _table(
                ("setting", "default", "meaning"),
                [(f"`{name}`", f"`{default}`", _escape(meaning)) for name, default, meaning in rows],
            ),
        ]
    )


def _errors_page(con: fleming_sql.Connection) -> str:
    sections = [
        "# Errors",
        "The text of an error has its condition in brackets, and names endpoint, request id, HTTP status and what to "
        "change. `fleming` and `errorMessage` begin with the condition; in Python, DuckDB puts `Invalid Input Error: "
        "Python exception occurred while executing the UDF: CallError:` before it, so look for the condition within "
        "the text. The log has the code. The same rows are in the view "
        "[`fleming.error_codes`](configuration.md#error_codes), so they can be joined to `fleming.serving.errors`.",
        "*Again*: the same served entity may be asked once more, within `max_retries` and `timeout_ms`. *Elsewhere*: "
        "the other served entities of the endpoint are asked.",
    ]
    for origin, title in (
        ("statement", "Before any row is read"),
        ("gateway", "From the gateway"),
        ("provider", "From a provider, or on the way to it"),
        ("log", "In logging_error_codes"),
    ):
        rows = con.execute(
            """
            select
                coalesce(condition, ''), coalesce(error_code, ''), coalesce(status_code::varchar, ''),
                coalesce(sql_state, ''), is_retried, falls_back, meaning, remedy
            from fleming.error_codes
            where origin = ?
            order by condition, status_code, error_code
            """,
            [origin],
        ).fetchall()
        sections += [f"## {title} {{: #{origin} }}", _error_table(rows)]
    tree = inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1]
    sections += [
        "## Errors of DuckDB itself {: #duckdb }",
        "Some mistakes DuckDB finds before the gateway is asked, so they have no condition:",
        _table(("it says", "because", "write"), _DUCKDB_ERRORS),
        "## Python exceptions",
        "DuckDB raises the errors of statements as `duckdb.Error`, with the text "
        "above. Opening, attaching and closing raise these:",
        f"```text\n{inspect.cleandoc(tree)}\n```",
    ]
    return "\n\n".join(sections)


def _error_table(rows: Sequence[Sequence[Any]]) -> str:
    def code(text: str) -> str:
        return f"`{text}`" if text else ""

    return _table(
        ("condition", "code", "status", "SQLSTATE", "then", "meaning", "what to do"),
        [
            (
                code(condition),
                code(error_code),
                status,
                sql_state,
                ", ".join(word for word, holds in (("again", again), ("elsewhere", elsewhere)) if holds),
                _escape(meaning),
                _escape(remedy),
            )
            for condition, error_code, status, sql_state, again, elsewhere, meaning, remedy in rows
        ],
    )


def _one_a_line(arguments: Sequence[str]) -> str:
    return "".join(f"\n    {argument}," for argument in arguments).rstrip(",") + ("\n" if arguments else "")


def _anchor(relation: Relation) -> str:
    return relation.name


def _sentence(text: str) -> str:
    return text.split(". ")[0].split("\n")[0]


def _short(kind: str) -> str:
    """Return a type without the fields of its structs, which views show one by one."""
    return "STRUCT(…)" + kind[kind.rindex(")") + 1 :] if kind.startswith("STRUCT(") else kind


def _escape(text: str) -> str:
    """Return a text so that Markdown shows it as it is, also within a table."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*_|{}\[\]])", r"\\\1", text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
