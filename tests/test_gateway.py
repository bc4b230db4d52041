"""Parts of the gateway whose claims hold for any order of events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.gateway.fairness import Flow
from fleming_sql.gateway.gate import FairGate
from fleming_sql.gateway.reuse import Reusable, ReuseCache
from fleming_sql.policies.retries import BASE_S, CAP_S, backoff, read_retry_after
from fleming_sql.policies.tokens import share_out
from fleming_sql.types import Answer, Usage


@given(
    limit=st.integers(1, 5),
    flows=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    cancelled=st.sets(st.integers(0, 39)),
)
def test_a_gate_admits_everyone_in_the_end_and_never_more_than_its_limit(
    limit: int, flows: Sequence[int], cancelled: set[int]
) -> None:
    most = inside = served = 0

    async def pass_through(gate: FairGate, flow: int) -> None:
        nonlocal most, inside, served
        await gate.enter(Flow(flow % 2, flow))
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        served += 1
        gate.leave()

    async def run() -> int:
        gate = FairGate(limit)
        tasks = [asyncio.create_task(pass_through(gate, flow)) for flow in flows]
        await asyncio.sleep(0)
        broken_off = 0
        for number in cancelled & set(range(len(tasks))):
            if number >= limit:  # those inside hold a place that only they can give back
                broken_off += tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.inside == 0
        return broken_off

    broken_off = asyncio.run(run())

    assert most <= limit
    assert served >= len(flows) - broken_off


def test_a_gate_serves_flows_in_turn() -> None:
    order: list[str] = []

    async def pass_through(gate: FairGate, flow: str) -> None:
        await gate.enter(Flow("ada", flow))
        order.append(flow)
        await asyncio.sleep(0)
        gate.leave()

    async def run() -> None:
        gate = FairGate(1)
        await gate.enter(Flow("ada", "holder"))
        tasks = [asyncio.create_task(pass_through(gate, flow)) for flow in ["long"] * 5 + ["short"]]
        await asyncio.sleep(0)
        gate.leave()
        await asyncio.gather(*tasks)

    asyncio.run(run())

    assert order.index("short") == 1


def answer(size: int) -> Reusable:
    return Reusable(Answer("x", Usage()), "id", "entity", "", "y" * size)


def test_the_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    async def run() -> tuple[bool, bool, bool]:
        cache = ReuseCache(lambda: 0.0, max_bytes=3 * (1024 + 4000))
        for name in ("a", "b", "c"):
            await cache.lead(name.encode(), 60, lambda: made(answer(1000)))
        cache.get(b"a")
        await cache.lead(b"d", 60, lambda: made(answer(1000)))
        return cache.get(b"a") is not None, cache.get(b"b") is not None, cache.get(b"d") is not None

    async def made(reusable: Reusable) -> Reusable:
        return reusable

    assert asyncio.run(run()) == (True, False, True)


def test_an_answer_larger_than_the_cache_is_not_kept() -> None:
    async def run() -> bool:
        cache = ReuseCache(lambda: 0.0, max_bytes=2000)
        await cache.lead(b"a", 60, made)
        return cache.get(b"a") is None

    async def made() -> Reusable:
        return answer(5000)

    assert asyncio.run(run())


@given(attempts=st.integers(1, 50), chance=st.floats(0, 1, exclude_max=True))
def test_a_pause_grows_with_the_attempts_up_to_a_cap(attempts: int, chance: float) -> None:
    assert 0 <= backoff(attempts, chance) <= min(CAP_S, BASE_S * 2 ** (attempts - 1))


def test_retry_after_is_read_in_all_its_forms() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 11, 21, 7, 28, 0, tzinfo=UTC)

    assert read_retry_after({"retry-after": "7"}, now) == 7
    assert read_retry_after({"retry-after": "7", "retry-after-ms": "250"}, now) == 0.25
    assert read_retry_after({"retry-after": "Sat, 21 Nov 2026 07:28:30 GMT"}, now) == 30
    assert read_retry_after({"retry-after": "Sat, 21 Nov 2026 07:00:00 GMT"}, now) == 0
    assert read_retry_after({"retry-after": "soon"}, now) is None
    assert read_retry_after({"retry-after": "-3"}, now) is None
    assert read_retry_after({}, now) is None


@given(total=st.integers(0, 10**9), weights=st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_shares_are_whole_and_sum_to_the_total(total: int, weights: list[int]) -> None:
    shares = share_out(total, weights)

    assert sum(share for share in shares if share is not None) == total
    assert all(share is not None and share >= 0 for share in shares)
