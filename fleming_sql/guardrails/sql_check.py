"""What SQL a policy may be written in: one expression over its parameters, which reads nothing else and writes nothing.

The text is taken apart into tokens and put together again from them, and only then parsed and used: so what was
checked is what runs, and no comment, prefix of a string or other way of quoting means one thing to sqlglot and another
to DuckDB. Names of functions are read from the tokens, because sqlglot gives many of them its own names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fleming_sql.guardrails.base import BadConfig
from fleming_sql.sqltext import quote_identifier, quote_text

_ALLOWED: Final = (
    "a policy is one SQL expression over its fields, such as "
    "CASE WHEN event.message ILIKE '%secret%' THEN 'DENY' ELSE 'ALLOW' END, with operators, CASE, casts, lists, "
    "structs, lambdas and DuckDB's functions on values"
)
_REFUSED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        reason: frozenset(names.split())
        for reason, names in {
            "writes, waits or depends on what ran before": (
                "nextval currval setval lastval setseed write_log sleep sleep_ms txid_current "
                "current_transaction_id current_query_id current_connection_id checkpoint force_checkpoint"
            ),
            "tells settings, or what else runs": (
                "current_setting set_config getenv getvariable current_query current_database current_catalog "
                "current_schema current_schemas current_user session_user current_role user in_search_path "
                "which_secret stats"
            ),
            "runs SQL, or reads files or tables": (
                "query query_table glob sniff_csv from_substrait from_substrait_json get_substrait load_extension "
                "add_parquet_key columns summary seq_scan index_scan arrow_scan pandas_scan python_map_function"
            ),
            "returns several rows": "unnest unpivot_list generate_subscripts regexp_split_to_table json_each json_tree",
            # DuckDB counts no memory for values of this kind, and cannot be interrupted while it makes one.
            "makes values of any size": (
                "repeat lpad rpad range generate_series list_resize array_resize bitstring format printf "
                "equi_width_bins list_reduce array_reduce reduce"
            ),
            # DuckDB cannot be interrupted while it evaluates one.
            "takes time that grows with the square of a text": (
                "levenshtein editdist3 damerau_levenshtein jaro_similarity jaro_winkler_similarity"
            ),
            "looks at several rows at once, while a policy looks at one event": (
                "any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null "
                "arg_max_nulls_last arg_min arg_min_null arg_min_nulls_last argmax argmin array_agg avg bit_and "
                "bit_or bit_xor bitstring_agg bool_and bool_or combine_aggr corr count count_if count_star "
                "countif covar_pop covar_samp cume_dist decimal_average dense_rank entropy favg fill first "
                "first_value fsum geomean geometric_mean group_concat histogram histogram_exact json_group_array "
                "json_group_object json_group_structure kahan_sum kurtosis kurtosis_pop lag last last_value lead "
                "list listagg lttb mad max max_by mean median min min_by mode nth_value ntile percent_rank "
                "product quantile quantile_cont quantile_disc rank rank_dense regr_avgx regr_avgy regr_count "
                "regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy reservoir_quantile row_number sem "
                "skewness stddev stddev_pop stddev_samp string_agg sum sum_no_overflow sumkahan var_pop var_samp "
                "variance variant_group_array variant_group_object wavg weighted_avg"
            ),
        }.items()
    }
)
_QUALIFIERS: Final = ("fleming", "main")
"""The store's catalog and schema, with which its macros call each other; in the sandbox they stand without."""
_REFUSED_PREFIXES: Final = re.compile(
    r"read_|write_|copy_|parquet_|duckdb_|pg_|pragma_|has_.*_privilege$|inet_|__internal|json_(de)?serialize_|json_execute_"
    r"|sqlite_|mysql_|postgres_|iceberg_|delta_|http_|st_read"
)
_KEYWORDS_THAT_TELL: Final = frozenset(
    {"CURRENT_USER", "SESSION_USER", "CURRENT_SCHEMA", "CURRENT_CATALOG", "CURRENT_ROLE"}
)
_REFUSED_NODES: Final = (
    ("Query Subquery Table From With UDTF Exists", "a subquery"),
    ("Window WindowSpec", "a window function"),
    ("Filter WithinGroup Order", "an aggregate"),
    ("Star Columns", "a star"),
    ("Placeholder Parameter SessionParameter PositionalColumn", "a parameter"),
    ("Alias Aliases", "AS"),
    ("Command DDL DML Set Pragma", "a statement"),
)
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_STRANGE: Final = re.compile(r"""["'`$;?#\\]|/\*|[^\x20-\x7e]""")


@dataclass(frozen=True, slots=True)
class CheckedSql:
    """A text that may be used."""

    text: str
    """Put together from its tokens; comments are left out."""
    functions: frozenset[str]
    """Names of all that it calls, in lower case."""
    literals: frozenset[str]
    """All its string constants."""


class _Token(NamedTuple):
    kind: str
    """sqlglot's name of the token's type."""
    source: str
    """The token as it is written, strings and identifiers in the one way that everybody reads alike."""
    name: str | None
    """Of a word or a quoted identifier, in lower case."""
    value: str
    before: str
    """White space between the token before and this one."""


def check_sql(text: str, parameters: Collection[str]) -> CheckedSql:
    """Check a policy's expression, or a macro's.

    Args:
        text: The expression.
        parameters: The names that it may read.

    Raises:
        BadConfig: It is no single expression, or does what a policy may not do.
    """
    tokens = _simplified(_tokens(text))
    functions = frozenset(_functions(tokens))
    if tokens and tokens[0].source.upper() in ("SELECT", "FROM", "WITH"):
        raise _refusal(f"{tokens[0].source.upper()}, which makes it a query and no expression")
    for token in tokens:
        if token.kind in _KEYWORDS_THAT_TELL:
            raise _refusal(f"{token.source.lower()}, which tells settings, or what else runs")
    for name in sorted(functions):
        _check_function(name)
    plain = "".join(token.before + token.source for token in tokens).strip()
    _check_tree(_parse(plain), {name.lower() for name in parameters})
    return CheckedSql(plain, functions, frozenset(token.value for token in tokens if token.kind == "STRING"))


def _tokens(text: str) -> list[_Token]:
    from sqlglot.dialects import DuckDB  # here: it takes a tenth of a second, and few have SQL policies
    from sqlglot.errors import SqlglotError

    try:
        found = DuckDB().tokenize(text)
    except (SqlglotError, RecursionError) as error:
        raise _unreadable(error) from None
    tokens: list[_Token] = []
    end = 0
    for token in found:
        gap = text[end : token.start]
        before = "\n" if "\n" in gap else " " if gap else ""
        tokens.append(_token(token.token_type.name, token.text, text[token.start : token.end + 1], before, tokens))
        end = token.end + 1
    return tokens


def _token(kind: str, value: str, source: str, before: str, earlier: Sequence[_Token]) -> _Token:
    if kind == "STRING" and source.startswith("'") and "\0" not in value:
        if earlier and not before and _WORD.fullmatch(earlier[-1].source):
            raise _refusal(f"the prefix {earlier[-1].source} of a string")
        return _Token(kind, quote_text(value), None, value, before)
    if kind == "IDENTIFIER" and source.startswith('"') and "\0" not in value:
        return _Token(kind, quote_identifier(value), value.lower(), value, before)
    if kind in ("SEMICOLON", "PLACEHOLDER", "PARAMETER") and source != "@":
        raise _refusal("a second statement (;)" if kind == "SEMICOLON" else f"a parameter ({source})")
    if strange := _STRANGE.search(source):
        raise _refusal(f"the sign {strange[0]!r}, in {source[:20]!r}: strings go in single quotes")
    return _Token(kind, source, source.lower() if _WORD.fullmatch(source) else None, value, before)


def _simplified(tokens: Sequence[_Token]) -> list[_Token]:
    """Return tokens without what stands in a macro as DuckDB writes it down and sqlglot cannot read.

    That is the schema and the catalog in front of functions, and parentheses around lambdas.
    """
    left_out: set[int] = set()
    for position, token in enumerate(tokens):
        names = [item.name for item in tokens[position : position + 3]]
        if names[0] in _QUALIFIERS and not _is(tokens, position - 1, "."):
            left_out |= set(range(position, _function_at(tokens, position)))
        elif (
            token.source == "("
            and names[1:2] == ["lambda"]
            and (_is(tokens, position - 1, ",") or _is(tokens, position - 1, "("))
        ):
            left_out |= {position, _closing(tokens, position)}
    kept: list[_Token] = []
    gap = ""
    for position, token in enumerate(tokens):
        gap += token.before
        if position not in left_out:
            kept.append(token._replace(before=gap))
            gap = ""
    return kept


def _function_at(tokens: Sequence[_Token], position: int) -> int:
    """Return where the name of a function begins behind its catalog and schema; `position` where it is none."""
    name = position
    while tokens[name].name in _QUALIFIERS and _follows(tokens, name, "."):
        name += 2
    is_function = name < len(tokens) and tokens[name].name is not None and _follows(tokens, name, "(")
    return name if is_function else position


def _is(tokens: Sequence[_Token], position: int, source: str) -> bool:
    return 0 <= position < len(tokens) and tokens[position].source == source


def _follows(tokens: Sequence[_Token], position: int, source: str) -> bool:
    return _is(tokens, position + 1, source)


def _closing(tokens: Sequence[_Token], opening: int) -> int:
    depth = 0
    for position in range(opening, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[position].source, 0)
        if depth == 0:
            return position
    raise _refusal("a parenthesis that is not closed")


def _functions(tokens: Sequence[_Token]) -> Iterator[str]:
    for position, token in enumerate(tokens):
        if token.name is not None and _follows(tokens, position, "("):
            yield token.name


def _check_function(name: str) -> None:
    reason = next((reason for reason, names in _REFUSED.items() if name in names), None)
    if reason is None and _REFUSED_PREFIXES.match(name):
        reason = "runs SQL, reads files or tables, or tells settings"
    if reason is not None:
        raise _refusal(f"{name}(), which {reason}")


def _parse(text: str) -> Any:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        return sqlglot.parse_one(text, into=exp.Condition, dialect="duckdb")
    except (SqlglotError, RecursionError) as error:
        raise _unreadable(error) from None


def _check_tree(tree: Any, readable: set[str]) -> None:
    from sqlglot import exp

    refused = [(tuple(getattr(exp, name) for name in names.split()), told) for names, told in _REFUSED_NODES]
    nodes: list[Any] = list(tree.walk())
    for node in nodes:
        for classes, told in refused:
            if isinstance(node, classes):
                raise _refusal(told)
    bound = {name.lower() for node in nodes for name in _bound(node, exp)}
    for node in nodes:
        name = _first_name(node, exp)
        if name is not None and name.lower() not in readable | bound:
            raise _refusal(f"{name!r}, which is none of its names: it reads {', '.join(sorted(readable))}")


def _bound(node: Any, exp: Any) -> Iterator[str]:
    """Return the names that a lambda or a comprehension gives to the values that it goes through."""
    if isinstance(node, exp.Lambda):
        yield from (parameter.name for parameter in node.expressions)
    elif isinstance(node, exp.Comprehension):
        bound = node.args.get("expression"), node.args.get("position")
        yield from (name.name for part in bound if part is not None for name in part.find_all(exp.Identifier))


def _first_name(node: Any, exp: Any) -> str | None:
    """Return what a node reads from: the first of the names in `event.context.actor`; None where it reads nothing."""
    if isinstance(node, exp.Column):
        return str(node.parts[0].name)
    if isinstance(node, exp.Dot) and isinstance(node.this, exp.Identifier):
        return str(node.this.name)
    return None


def _refusal(what: str) -> BadConfig:
    return BadConfig(f"a SQL policy may not have {what}", _ALLOWED)


def _unreadable(error: Exception) -> BadConfig:
    told = re.sub(r"\x1b\[[0-9;]*m|\s+", " ", str(error))[:200].strip()
    return BadConfig(
        f"the SQL cannot be read by sqlglot, which checks policies ({told or 'it is nested too deep'})",
        f"write it in another way, even if DuckDB takes it: {_ALLOWED}",
    )
