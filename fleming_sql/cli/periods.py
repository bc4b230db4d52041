"""Points in time as people name them: `7d`, `12h`, `2026-11-01`, `2026-11-01T12:30`."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

import click

_AGO: Final = re.compile(r"(\d+)\s*(m|min|h|d|w)")
_UNITS: Final = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def beginning(_ctx: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """Read an option as the point in time at which something begins, UTC without a zone, as the log has it.

    Raises:
        BadParameter: It is none; with what is accepted.
    """
    return None if text is None else _read(text.strip(), timedelta(0))


def end(_ctx: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """Read an option as the point in time at which something ends: a date stands for the end of its day.

    Raises:
        BadParameter: It is none; with what is accepted.
    """
    return None if text is None else _read(text.strip(), timedelta(days=1))


def _read(text: str, day: timedelta) -> datetime:
    try:
        if ago := _AGO.fullmatch(text):
            return datetime.now(UTC).replace(tzinfo=None) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return datetime.combine(date.fromisoformat(text), datetime.min.time()) + day
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{text!r} is no point in time: write how long ago (30m, 12h, 7d, 2w), a date (2026-11-01) or a date "
            "with a time (2026-11-01T12:30, UTC unless it has a zone)"
        ) from error
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
