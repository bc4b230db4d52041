"""The list prices: rows of `fleming.model_prices` from the package genai-prices, which is maintained by many.

It says more than a table of token prices can hold. What such a table would price wrongly gets a row without a price, so
that the cost is unknown: models whose price depends on the time of the day, or on pictures, pages, seconds or requests
besides the tokens. Prices that depend on anything in the request but the tier and the length of the input are left out.

Source: https://github.com/pydantic/genai-prices
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import duckdb
import pyarrow as pa

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_PACKAGE: Final = "genai-prices"
_READING: Final = 1
"""One more when this module reads the same list otherwise: stores seeded by another reading are seeded anew."""
_BATCH: Final = "fleming_prices"
_COLUMNS: Final[Mapping[str, pa.DataType]] = {
    "provider": pa.string(),
    "model": pa.string(),
    "service_tier": pa.string(),
    "valid_from": pa.timestamp("us"),
    "valid_to": pa.timestamp("us"),
    "from_input_tokens": pa.int64(),
    "input_per_million": pa.float64(),
    "output_per_million": pa.float64(),
    "cached_input_per_million": pa.float64(),
    "cache_write_per_million": pa.float64(),
}
_PRICES: Final = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
"""In the order of the last columns."""
_ASKED_FOR: Final = re.compile(r"cache_write_1h_mtok|\w*audio\w*_mtok|(web|storage)_searches_kcount")
"""Prices of what is counted apart and no request is charged for that does not ask for it."""
_TIERED_BY: Final = frozenset({"service_tier", "processing", "speed"})
"""What the list's tiers are called: OpenAI's and Google's service_tier, batch processing, Anthropic's fast mode."""
_DEFAULT: Final = "default"
_BEGINNING: Final = date(1970, 1, 1)
_DATES: Final = ((r"\d{8}", "20*"), (r"\d{4}-\d{2}-\d{2}", "20*-*-*"))
"""The date at the end of a model's name, in the list's expressions and in `model_prices.model`."""
_CHOICE: Final = re.compile(r"\[([^\[\]\\^])([^\[\]\\^])\]")
_NOT_LITERAL: Final = re.compile(r"(?<!\\)[\[\](){}|?+^$]|\\[a-zA-Z]|(?<!\\)\.")
_FREE: Final = ("simulated", "*", _DEFAULT, datetime(1970, 1, 1), None, 0, 0.0, 0.0, 0.0, 0.0)

_Cells = tuple[float | None, ...]
_Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """What `model_prices.model` says of one way to write a model."""

    text: str
    is_exact: bool = True
    """False where the list matches fewer names: they have no price rather than a wrong one."""


def seed_prices(cursor: duckdb.DuckDBPyConnection) -> None:
    """Bring the list's rows to the version of the package, where they are of another one. Rows of users stay.

    Args:
        cursor: Its current catalog is the store; within a transaction.
    """
    package = version(_PACKAGE)
    wanted = f"{package}/{_READING}"
    if cursor.execute("select 1 from price_list_providers where list_version = ? limit 1", [wanted]).fetchall():
        return
    prices, providers = _read_list(wanted)
    cursor.execute("delete from model_prices where source <> 'user'")
    cursor.execute("delete from price_list_providers")
    for table, rows, source in (
        ("model_prices", prices, f", '{_PACKAGE} {package}' as source"),
        ("price_list_providers", providers, ""),
    ):
        cursor.register(_BATCH, rows)
        try:
            cursor.execute(f"insert into {table} by name select *{source} from {_BATCH}")  # noqa: S608  own names
        finally:
            cursor.unregister(_BATCH)


@cache
def _read_list(list_version: str) -> tuple[pa.Table, pa.Table]:
    """Return the rows of `model_prices` and of `price_list_providers`. Once in a process: it takes 0.2 s."""
    from genai_prices.data import providers  # takes 0.12 s, and is needed only for a new store

    rows = [_FREE, *(row for provider in providers for row in _rows_of_provider(provider))]
    columns = zip(*rows, strict=True)
    addresses: dict[str, list[Any]] = {
        "provider": [provider.id for provider in providers],
        "position": list(range(len(providers))),
        "api_pattern": [provider.api_pattern for provider in providers],
        "offers_models_of": [provider.fallback_model_providers or [] for provider in providers],
        "list_version": [list_version] * len(providers),
    }
    return (
        pa.table({name: pa.array(values, _COLUMNS[name]) for name, values in zip(_COLUMNS, columns, strict=True)}),
        pa.table(addresses),
    )


def _rows_of_provider(provider: Provider) -> Iterator[_Row]:
    taken: set[str] = set()
    before: list[ModelInfo] = []
    for model in provider.models:
        prices = _periods(model)
        names = list(_names(model.match))
        for name in names:
            # The first model that matches counts, as in the package, be it by a pattern.
            if name.text in taken or ("*" not in name.text and any(earlier.is_match(name.text) for earlier in before)):
                continue
            taken.add(name.text)
            for tier, valid_from, valid_to, tokens, cells in prices if name.is_exact else _NO_PRICE:
                yield provider.id, name.text, tier, valid_from, valid_to, tokens, *cells
        if any("*" in name.text for name in names):
            before.append(model)


def _names(match: Any) -> Iterator[_Name]:
    """Yield the names that a clause of the list matches, in small letters."""
    kind = type(match).__name__
    if kind == "ClauseOr":
        for clause in match.or_:
            yield from _names(clause)
    elif kind == "ClauseEquals":
        yield _Name(match.equals.lower())
    elif kind == "ClauseStartsWith":
        yield _Name(f"{match.starts_with.lower()}*")
    elif kind == "ClauseEndsWith":
        yield _Name(f"*{match.ends_with.lower()}")
    elif kind == "ClauseContains":
        yield _Name(f"*{match.contains.lower()}*")
    elif kind == "ClauseRegex":
        yield from _names_of_expression(match.regex)
    elif kind == "ClauseAnd":
        for name in _names(match.and_[0]):
            beginning = name.text.rstrip("*")
            if match.is_match(beginning):
                yield _Name(beginning)
            yield _Name(name.text, is_exact=False)


def _names_of_expression(expression: str) -> Iterator[_Name]:
    """Yield the names that a regular expression matches: a name in full with a date at its end, or a beginning."""
    if not expression.startswith("^"):
        return
    text = expression[1:]
    for digits, stars in _DATES:
        text = text.replace(digits, stars)
    choice = _CHOICE.search(text)
    for chosen in [text] if choice is None else [text.replace(choice[0], one) for one in choice.groups()]:
        literal = _NOT_LITERAL.search(chosen.removesuffix("$"))
        known = chosen.removesuffix("$") if literal is None else chosen[: literal.start()]
        known = re.sub(r"\\(.)", r"\1", known).lower()
        if literal is None and chosen.endswith("$"):
            yield _Name(known)
        elif known:
            yield _Name(f"{known}*", is_exact=False)


def _periods(model: ModelInfo) -> list[tuple[str, datetime, datetime | None, int, _Cells]]:
    """Return tier, beginning, end, least input and prices: one for each, where anything changes."""
    conditions: list[Any] = model.prices if isinstance(model.prices, list) else []
    constraints = [item.constraint for item in (*conditions, *(model.price_variants or []))]
    constraints = [constraint for constraint in constraints if constraint is not None]
    if any(not hasattr(constraint, "start_date") for constraint in constraints):
        return _NO_PRICE
    dates = sorted({_BEGINNING, *(constraint.start_date for constraint in constraints)})
    found = []
    for context in _contexts(model):
        known = [(day, _at(model, day, context)) for day in dates]
        changes = [now for before, now in pairwise([(None, None), *known]) if now[1] != before[1]]
        for (day, cells), following in zip(changes, [*changes[1:], None], strict=True):
            end = None if following is None else _midnight(following[0])
            tier = next(iter(context.values()))
            found += [(tier, _midnight(day), end, tokens, prices) for tokens, prices in (cells or {}).items()]
    return found


def _contexts(model: ModelInfo) -> list[dict[str, str]]:
    """Return what the package has to be told to give the price of each tier, the normal one first."""
    found = [{"service_tier": _DEFAULT}]
    for variant in model.price_variants or []:
        if variant.when.keys() <= _TIERED_BY and len(variant.when) == 1 and variant.when not in found:
            found.append(variant.when)
    return found


def _at(model: ModelInfo, day: date, context: dict[str, str]) -> dict[int, _Cells] | None:
    """Return the prices of a day by least input, None where the tier has none on that day."""
    tier = next(iter(context.values()))
    variants = [variant for variant in model.price_variants or [] if variant.when == context]
    if tier != _DEFAULT and all(v.constraint is not None and v.constraint.start_date > day for v in variants):  # type: ignore[union-attr]
        return None
    prices = model.get_prices(datetime.combine(day, time(12), UTC), context)
    return _cells(prices)


def _cells(prices: ModelPrice) -> dict[int, _Cells]:
    given = {key: price for key, price in vars(prices).items() if price is not None}
    if "input_mtok" not in given or any(key not in _PRICES and not _ASKED_FOR.fullmatch(key) for key in given):
        return {0: (None,) * len(_PRICES)}
    thresholds = {tier.start for price in given.values() for tier in getattr(price, "tiers", ())}
    starts = [0, *sorted(start + 1 for start in thresholds)]  # "above" in the list, "at least" in our column
    return {start: tuple(_price(given.get(key), start) for key in _PRICES) for start in starts}


def _price(price: Any, tokens: int) -> float | None:
    if price is None or not hasattr(price, "tiers"):
        return None if price is None else float(price)
    return float(next((tier.price for tier in reversed(price.tiers) if tokens > tier.start), price.base))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())


_NO_PRICE: Final[list[tuple[str, datetime, datetime | None, int, _Cells]]] = [
    (_DEFAULT, _midnight(_BEGINNING), None, 0, (None,) * len(_PRICES))
]
