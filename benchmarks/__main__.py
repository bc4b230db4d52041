"""Runs the benchmarks, each in a process of its own, and prints one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from benchmarks import (
    capacity,
    config_read,
    crash,
    delta_export,
    duplicates,
    faults,
    guardrails,
    in_flight,
    latency,
    logging_cost,
    machine,
    memory,
    pacing,
    pii,
    report,
    throughput,
    transports,
)
from benchmarks.processes import apart
from benchmarks.table import Row, markdown

BENCHMARKS: Mapping[str, tuple[Callable[[], list[Row]], ...]] = {
    "throughput": (throughput.measure,),
    "in_flight": (in_flight.measure,),
    "duplicates": (duplicates.measure,),
    "latency": (latency.measure,),
    "memory": (memory.with_reuse, memory.without_reuse),
    "config_read": (config_read.measure,),
    "transports": (transports.measure,),
    "faults": (faults.measure,),
    "capacity": (capacity.measure,),
    "pacing": (pacing.measure,),
    "logging": (logging_cost.measure,),
    "crash": (crash.measure,),
    "delta_export": (delta_export.measure,),
    "pii": (pii.quality, pii.speed),
    "guardrails": (guardrails.measure,),
}


def main() -> None:
    """Run the benchmarks that are named, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--save", action="store_true", help="rewrite docs/benchmarks.md; needs all benchmarks")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - BENCHMARKS.keys())
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if options.save and options.names:
        parser.error("--save writes the whole table, so it takes no names")
    names = options.names or list(BENCHMARKS)
    about = machine.describe(" ".join(["python -m benchmarks", *sys.argv[1:]]))
    rows = [row for name in names for measure in BENCHMARKS[name] for row in _apart(name, measure)]
    about["Load at the end"] = machine.load()
    print("\n".join(f"{label}: {text}" for label, text in about.items()), end="\n\n")
    print(markdown(rows), end="")
    if options.save:
        report.save(about, rows)


def _apart(name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    print(f"{name} …", file=sys.stderr, flush=True)
    return apart(measure)


if __name__ == "__main__":
    main()
