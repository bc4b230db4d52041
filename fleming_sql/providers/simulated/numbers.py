"""Numbers within the bounds of a JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final

_AMOUNT: Final = re.compile(r"amount|price|total|cost|sum|number|quantity|count|rating|stars|age|year", re.IGNORECASE)
_SHARE: Final = re.compile(r"score|confidence|probability|similarity|share", re.IGNORECASE)
_NUMBER: Final = re.compile(r"(?<![\w.-])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.-])-?\d+(?:\.\d+)?(?![\w-])")
_MONEY: Final = re.compile(r"[$€£]\s?(\d[\d,]*(?:\.\d+)?)|(\d[\d,]*(?:\.\d+)?)\s?(?:€|£|EUR|USD|GBP|dollars|euros)")
_IS_MONEY: Final = re.compile(r"amount|price|total|cost|sum", re.IGNORECASE)


def find_number(name: str, text: str) -> Fraction | None:
    """Return the number of a text that a property of this name may mean.

    Example:
        >>> find_number("amount", "Order 12: please refund $1,049.50")
        Fraction(2099, 2)
    """
    if not _AMOUNT.search(name):
        return None
    if _IS_MONEY.search(name) and (money := _MONEY.search(text)):
        return Fraction((money[1] or money[2]).replace(",", ""))
    found = _NUMBER.search(text)
    return Fraction(found[0].replace(",", "")) if found else None


def choose_number(
    schema: Mapping[str, Any], name: str, wanted: Fraction | None, chance: int, *, whole: bool
) -> int | float:
    """Return a number that the schema accepts: the wanted one if it does, else one that `chance` decides.

    Args:
        schema: With bounds and `multipleOf`.
        name: Of the property; a score or probability without bounds lies from 0 to 1.
        wanted: A number found in the prompt.
        chance: Decides among the numbers that are accepted.
        whole: Whether it must be an integer.
    """
    low, high = _bounds(schema, 1 if _SHARE.search(name) and not whole else 100)
    step = _step(schema, whole=whole)
    first = floor(low / step) + 1 if _excludes(schema, "exclusiveMinimum", low) else ceil(low / step)
    last = ceil(high / step) - 1 if _excludes(schema, "exclusiveMaximum", high) else floor(high / step)
    if wanted is not None and _accepts(schema, wanted, whole=whole):
        return _plain(wanted)
    if first <= last:
        return _plain((first + chance % (last - first + 1)) * step)
    return _plain((low + high) / 2)


def _accepts(schema: Mapping[str, Any], value: Fraction, *, whole: bool) -> bool:
    checks: Mapping[str, Callable[[Fraction], bool]] = {
        "minimum": lambda bound: value >= bound,
        "exclusiveMinimum": lambda bound: value > bound,
        "maximum": lambda bound: value <= bound,
        "exclusiveMaximum": lambda bound: value < bound,
        "multipleOf": lambda step: (value / step).denominator == 1,
    }
    if whole and value.denominator != 1:
        return False
    return all(fits(Fraction(str(schema[key]))) for key, fits in checks.items() if _is_bound(schema, key))


def _bounds(schema: Mapping[str, Any], width: int) -> tuple[Fraction, Fraction]:
    lows = [Fraction(str(schema[key])) for key in ("minimum", "exclusiveMinimum") if _is_bound(schema, key)]
    highs = [Fraction(str(schema[key])) for key in ("maximum", "exclusiveMaximum") if _is_bound(schema, key)]
    multiple = Fraction(str(schema.get("multipleOf", 1)))
    room = max(Fraction(width), 2 * multiple)
    if lows:
        return max(lows), min(highs) if highs else max(lows) + room
    if highs:
        return min(Fraction(0), min(highs) - room), min(highs)
    return Fraction(0), room


def _is_bound(schema: Mapping[str, Any], key: str) -> bool:
    value = schema.get(key)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _excludes(schema: Mapping[str, Any], key: str, bound: Fraction) -> bool:
    """Tell whether a bound itself is refused."""
    return _is_bound(schema, key) and Fraction(str(schema[key])) == bound


def _step(schema: Mapping[str, Any], *, whole: bool) -> Fraction:
    given = schema.get("multipleOf")
    if given is None:
        return Fraction(1) if whole else Fraction(1, 100)
    step = Fraction(str(given))
    # In lowest terms, the smallest whole multiple of a step is its numerator.
    return Fraction(step.numerator) if whole else step


def _plain(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
