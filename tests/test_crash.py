"""Processes that are killed with SIGKILL: what the user saw, what the model answered and what the log has agree."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import fleming_sql
from benchmarks.crash import Harness, Kill
from benchmarks.crash_checks import Logged, Round, Run, Store, compare
from benchmarks.crash_ledger import Entry, LedgerModel, ledger_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

ROWS = 3000


@pytest.fixture(scope="module")
def model() -> Iterator[LedgerModel]:
    with ledger_model(seed=1) as model:
        yield model


@pytest.fixture
def harness(model: LedgerModel, tmp_path: Path) -> Harness:
    return Harness(model, tmp_path, ROWS)


def killed(harness: Harness) -> int:
    return sum(harness.figures.kills.values())


def test_a_job_that_is_killed_and_run_again_loses_nothing_and_pays_nothing_that_was_logged(harness: Harness) -> None:
    for number in range(4):
        harness.run(number)

    assert harness.figures.violations == []
    assert killed(harness) >= 3


def test_a_job_killed_before_it_asked_anything_comes_to_its_end(harness: Harness) -> None:
    opening = [Kill("opening", share) for share in (0.2, 0.4, 0.6, 0.8)]

    findings = harness.round("early", [Kill("starting", 0.5), *opening])

    assert (findings.violations, killed(harness)) == ([], 5)


def test_a_process_killed_while_it_closes_leaves_all_of_its_answers_in_the_log(harness: Harness) -> None:
    findings = harness.round("closing", [Kill("closing", 0.0)])

    assert (findings.violations, killed(harness), findings.repeated) == ([], 1, 0)


def test_a_process_killed_while_it_reads_a_journal_leaves_the_rest_to_the_next_one(harness: Harness) -> None:
    reading = [Kill("opening", share) for share in (0.3, 0.5, 0.7, 0.9)]

    findings = harness.round("reading", [Kill("asking", 0.6), *reading])

    assert (findings.violations, killed(harness)) == ([], 5)


def test_a_table_whose_making_was_killed_is_made_without_paying_again(harness: Harness) -> None:
    findings = harness.round("table", [Kill("asking", 0.5)], is_table=True)

    assert (findings.violations, killed(harness)) == ([], 1)


def test_with_power_durability_a_killed_job_loses_nothing_either(harness: Harness) -> None:
    findings = harness.round("power", [Kill("asking", 0.5)], durability="power")

    assert (findings.violations, killed(harness)) == ([], 1)


def test_without_durability_answers_of_some_seconds_before_the_kill_are_in_the_log(
    model: LedgerModel, tmp_path: Path
) -> None:
    harness = Harness(model, tmp_path, 5 * ROWS)

    findings = harness.round("off", [Kill("asking", 0.9)], durability="off", lost_within_s=3.0)

    assert findings.violations == []


@pytest.mark.parametrize("size", [0, 4096, 8192, 12288, 16384, 65536, 262144, 524288])
def test_a_store_opens_whose_making_was_killed_when_a_file_had_grown_to_a_size(tmp_path: Path, size: int) -> None:
    store = tmp_path / "gateway.duckdb"
    script = """
        import resource, signal, sys
        import fleming_sql
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system then kills who writes beyond the limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        fleming_sql.connect(gateway=sys.argv[1])
    """
    command = [sys.executable, "-B", "-c", textwrap.dedent(script), str(store), str(size)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGXFSZ

    with fleming_sql.connect(gateway=store) as con:
        assert con.execute("select count(*) from fleming.serving.inference").fetchall() == [(0,)]


# What the comparison itself sees, with rounds of one row made up by hand.

KEY = "one-000000"
ANSWER = "one-000000 means e9223f7b, as request 1"
ENTRY = Entry(1, KEY, arrived=10.0, answered=10.1, input_tokens=20, output_tokens=5)
LOGGED = Logged("call-1", ANSWER, cache_hit=False, tokens=25)
HIT = Logged("call-2", ANSWER, cache_hit=True, tokens=0)


def run_of(*entries: Entry, killed_at: float | None = None) -> Run:
    return Run([(KEY, ANSWER)], entries, killed_at)


def round_of(logged: Sequence[Logged], *runs: Run, twice: tuple[int, int] = (0, 0)) -> Round:
    store = Store(logged, twice, journals=0, records=0, replayed=0, torn=0, open_s=0.0)
    return Round("one", 1, runs or [run_of(ENTRY)], store, places=2)


def unlogged(number: int, key: str = KEY, answered: float = 8.99) -> Entry:
    return Entry(number, key, 7.0, answered, 20, 5)


def kinds(seen: Round) -> list[str]:
    return [violation.partition(":")[0] for violation in compare(seen).violations]


def test_a_round_in_order_has_no_violation() -> None:
    assert kinds(round_of([LOGGED, HIT], run_of(ENTRY, killed_at=11.0), run_of())) == []


def test_a_row_that_is_shown_again_needs_a_row_of_its_own_in_the_log() -> None:
    seen = round_of([LOGGED], run_of(ENTRY, killed_at=11.0), run_of())

    assert kinds(seen) == ["seen by the user, not in the log"]


def test_an_answer_has_to_be_in_the_log_when_later_ones_are() -> None:
    later = [unlogged(number, f"two-{number:06d}") for number in range(2, 5)]
    logged = [Logged(f"call-{e.number}", f"{e.key} means …, as request {e.number}", False, 25) for e in later]
    killed = Run([], [unlogged(0, answered=7.1), *later], killed_at=9.0)

    [violation, *_] = compare(round_of([LOGGED, *logged], killed, run_of(ENTRY))).violations

    assert "1900 ms before kill 1; 3 later answers are logged" in violation


def test_a_kill_takes_no_more_answers_than_were_under_way() -> None:
    killed = Run([], [unlogged(-number, f"{KEY}{number}") for number in range(3)], killed_at=9.0)

    [violation] = compare(round_of([LOGGED], killed, run_of(ENTRY))).violations

    assert "3 by kill 1, where 2 can be under way" in violation


def test_an_answer_that_came_with_the_kill_may_be_paid_again() -> None:
    assert kinds(round_of([LOGGED], Run([], [unlogged(0)], killed_at=9.0), run_of(ENTRY))) == []


def test_an_answer_without_a_kill_has_to_be_in_the_log() -> None:
    [violation, *_] = compare(round_of([LOGGED], run_of(unlogged(0), ENTRY))).violations

    assert "1 in run 1, which was not killed" in violation


def test_a_request_after_its_answer_was_logged_is_one_too_many() -> None:
    again = Entry(2, KEY, arrived=12.0, answered=None, input_tokens=20, output_tokens=5)
    seen = round_of([LOGGED, HIT], run_of(ENTRY, killed_at=11.0), run_of(again))

    assert kinds(seen) == ["asked again although its answer was logged"]


def test_requests_beyond_one_a_run_are_too_many() -> None:
    seen = round_of([LOGGED], run_of(Entry(0, KEY, 9.0, None, 20, 5), ENTRY))

    assert kinds(seen) == ["asked more often than once and once a kill"]


def test_tokens_that_nobody_billed_are_found() -> None:
    assert kinds(round_of([LOGGED._replace(tokens=26)])) == ["logged otherwise than in the ledger", "the totals differ"]


def test_records_that_stand_in_the_log_twice_are_found() -> None:
    assert kinds(round_of([LOGGED], twice=(1, 0))) == ["the totals differ"]


def test_a_result_with_another_answer_is_found() -> None:
    wrong = Run([(KEY, ANSWER.replace("means", "is"))], [ENTRY], None)

    assert kinds(round_of([LOGGED], wrong)) == ["the result is not whole", "seen by the user, not in the log"]
