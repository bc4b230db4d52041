"""Tells OpenTelemetry what calls did, where a process has it configured; does nothing otherwise."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from fleming_sql.providers import ProviderRegistry

if TYPE_CHECKING:
    from fleming_sql.observability.otel import Observer

_PACKAGE: Final = "opentelemetry"
_BY_ENVIRONMENT: Final = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")
"""Variables by which OpenTelemetry's API configures itself when it is first used."""


def make_observer(providers: ProviderRegistry) -> Observer | None:
    """Return what tells OpenTelemetry of calls; None where it is not installed or not configured.

    A process that has not imported OpenTelemetry has not configured it, so it is not imported then: that takes 0.1 s.
    Asking again later costs a microsecond, and finds what was configured meanwhile.

    Args:
        providers: Tell where requests go.
    """
    if _PACKAGE not in sys.modules and not any(map(os.environ.get, _BY_ENVIRONMENT)):
        return None
    try:
        from fleming_sql.observability import otel
    except ImportError:
        return None
    return otel.Observer(providers) if otel.is_configured() else None


__all__ = ["make_observer"]
