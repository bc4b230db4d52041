"""Rate limits: how much of one a batch uses, whether it is ever exceeded, and what governance costs a call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Thread

from benchmarks.setup import Mock, Spent, add_endpoint, fill, gateway, measured, mock, value
from benchmarks.table import Row
from fleming_sql import Connection
from fleming_sql.testing import MockModel, echo_chat

LIMIT = 6_000
PACED_ROWS = 2_500
CALLERS = 1_000
CURSORS = 10
ALLOWED = 300
ROWS = 10_000
RUNS = 3


def measure() -> list[Row]:
    """Measure the pace, the refusals and the cost."""
    os.environ["FLEMING_USER"] = "bench"  # whom the permissions name
    return [*_paced(), *_refused(), *_cost()]


def _paced() -> list[Row]:
    """Run a batch that waits; the arrivals are the server's."""
    with MockModel(echo_chat) as server, gateway(Mock(server.url)) as con:
        con.execute("INSERT INTO fleming.rate_limits (endpoint, calls) VALUES ('chat', ?)", [LIMIT])
        fill(con, "paced", PACED_ROWS)
        with measured() as spent:
            assert value(con, "SELECT count(ai_query('chat', prompt)) FROM prompts") == PACED_ROWS
        arrivals = sorted(received.at for received in server.requests)
    assert len(arrivals) == PACED_ROWS
    rate = (PACED_ROWS - 1) / (arrivals[-1] - arrivals[0]) * 60
    share = PACED_ROWS / spent.wall * 60 / LIMIT
    ten = most_within(arrivals, 10.0)
    return [
        Row(
            f"{PACED_ROWS:,} rows under {LIMIT:,} calls a minute: calls a minute from the first arrival to the last",
            f"{rate:,.0f}, {rate / LIMIT:.1%} of the limit",
            ">= 98 %",
            rate >= 0.98 * LIMIT,
        ),
        Row("the same: by the wall time of the statement", f"{share:.1%} of the limit, {spent.wall:.1f} s"),
        Row(
            "the same: most arrivals within any 1 s; any 10 s",
            f"{most_within(arrivals, 1.0):,}; {ten:,} ({LIMIT // 60:,}; {LIMIT // 6:,} would be even)",
        ),
    ]


def most_within(arrivals: Sequence[float], seconds: float) -> int:
    """Return the most of the arrivals, which are in order, that any window of that length holds.

    Example:
        >>> most_within([0.0, 0.5, 0.9, 2.0], 1.0)
        3
    """
    most = first = 0
    for last, at in enumerate(arrivals):
        while at - arrivals[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def _refused() -> list[Row]:
    """Let many ask at once for more than the limit gives them."""
    with MockModel(echo_chat) as server, gateway(Mock(server.url), CALLERS) as con:
        con.execute(
            "INSERT INTO fleming.rate_limits (endpoint, calls, on_exceeded) VALUES ('chat', ?, 'reject')", [ALLOWED]
        )
        answered: list[int] = []
        threads = [Thread(target=_some_callers, args=(con.cursor(), number, answered)) for number in range(CURSORS)]
        with measured() as spent:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        arrived = server.request_count
        refusals = value(con, "SELECT count(*) FROM fleming.serving.inference WHERE status_code = 429")
    exact = (arrived, sum(answered), refusals) == (ALLOWED, ALLOWED, CALLERS - ALLOWED)
    return [
        Row(
            f"{CALLERS:,} callers at once over {CURSORS} connections, {ALLOWED} calls a minute: calls sent",
            f"{arrived:,}; {sum(answered):,} answered, {refusals:,} refused in {spent.wall:.1f} s",
            f"{ALLOWED}",
            exact,
        )
    ]


def _some_callers(cursor: Connection, number: int, answered: list[int]) -> None:
    sql = (
        f"SELECT count(a.result) FROM (SELECT ai_query('chat', 'caller {number} ' || i, failOnError => false) AS a "
        f"FROM range({CALLERS // CURSORS}) AS r(i))"
    )
    answered.append(value(cursor, sql))


def _cost() -> list[Row]:
    """Run the same rows with and without limits, permissions and a split, in turns."""
    plain: list[Spent] = []
    governed: list[Spent] = []
    with mock() as server, gateway(server) as con:
        add_endpoint(con, "governed", server, 512)
        _govern(con, server)
        for number in range(RUNS):
            plain.append(_run(con, "chat", f"plain {number}"))
            governed.append(_run(con, "governed", f"governed {number}"))
        assert server.stats()["requests"] == 2 * RUNS * ROWS
    without, with_all = (min(spent.cpu for spent in runs) / ROWS * 1e6 for runs in (plain, governed))
    return [
        Row(f"{ROWS:,} rows, CPU per call, nothing configured; least of {RUNS}", f"{without:.0f} us"),
        Row(
            "the same, a rate limit, two permissions, two entities", f"{with_all:.0f} us, {with_all - without:+.0f} us"
        ),
    ]


def _govern(con: Connection, server: Mock) -> None:
    """Give the endpoint what a governed one has; none of it is met."""
    con.execute("INSERT INTO fleming.principals (name, type) VALUES ('bench', 'user'), ('analysts', 'group')")
    con.execute("INSERT INTO fleming.principals (name, type) VALUES ('somebody', 'user')")
    con.execute("INSERT INTO fleming.group_members VALUES ('analysts', 'bench')")
    con.execute(
        "INSERT INTO fleming.permissions (endpoint, principal_type, principal) "
        "VALUES ('governed', 'user', 'somebody'), ('governed', 'group', 'analysts')"
    )
    con.execute("INSERT INTO fleming.rate_limits (endpoint, calls) VALUES ('governed', 1000000000)")
    con.execute("UPDATE fleming.served_entities SET traffic_percentage = 50 WHERE endpoint = 'governed'")
    con.execute(
        "INSERT INTO fleming.served_entities (endpoint, name, provider, model, base_url, traffic_percentage, position) "
        "VALUES ('governed', 'second', 'openai', 'mock-1', ?, 50, 2)",
        [f"{server.url}/v1"],
    )


def _run(con: Connection, endpoint: str, label: str) -> Spent:
    fill(con, label, ROWS)
    with measured() as spent:
        assert value(con, f"SELECT count(ai_query('{endpoint}', prompt)) FROM prompts") == ROWS
    return spent
