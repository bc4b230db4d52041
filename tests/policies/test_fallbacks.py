from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.policies.failures import Failure, Kind
from fleming_sql.policies.fallbacks import Step, Tries, judge, outcome
from fleming_sql.types import Endpoint, Refusal, ServedEntity


def _entity(number: int, credential: str | None = None) -> ServedEntity:
    return ServedEntity(f"id-{number}", "chat", f"e{number}", "openai", "m", None, credential, 50, number + 1, {}, {})


def _endpoint(entities: int | Sequence[ServedEntity] = 2, **columns: Any) -> Endpoint:
    rows = tuple(map(_entity, range(entities))) if isinstance(entities, int) else tuple(entities)
    endpoint = Endpoint(
        name="chat",
        task="llm/v1/chat",
        enabled=True,
        payload_logging=True,
        usage_tracking=True,
        cache_ttl_seconds=None,
        cache_scope="shared",
        max_concurrency=64,
        timeout_ms=60_000,
        connect_timeout_ms=5_000,
        max_retries=2,
        max_response_bytes=1_000_000,
        max_logged_bytes=1_000_000,
        log_original=False,
        default_parameters={},
        fallback_enabled=True,
        fallback_on=(),
        retry_on_timeout=False,
        attempt_timeout_ms=None,
        hedge_after_ms=None,
        hedge_percentile=None,
        routing="weighted",
        sticky_key=None,
        adaptive_concurrency=True,
        breaker_failure_share=0.5,
        breaker_min_calls=20,
        breaker_window_ms=10_000,
        breaker_open_ms=5_000,
        version=1,
        entities=rows,
        problems=(),
    )
    return replace(endpoint, **columns)


def _status(status: int, retry_after_s: float | None = None, refusal: Refusal | None = None) -> Failure:
    return Failure("status", "told", status=status, retry_after_s=retry_after_s, refusal=refusal)


_FINAL = [_status(status) for status in (400, 404, 405, 409, 413, 422)] + [Failure("too_large", "told")]
_KINDS: Final[tuple[Kind, ...]] = ("timeout", "cut", "answer", "redirect", "credential", "request")
_ELSEWHERE = [_status(status) for status in (401, 402, 403, 501, 505)] + [Failure(kind, "told") for kind in _KINDS]
_AGAIN = [_status(status) for status in (408, 425, 429, 500, 502, 503, 504, 529)] + [Failure("connect", "told")]


def _named(failure: Failure) -> str:
    return f"{failure.kind} {failure.status}"


@pytest.mark.parametrize("failure", _FINAL, ids=_named)
def test_what_no_entity_would_answer_otherwise_is_final(failure: Failure) -> None:
    assert judge(failure, _endpoint(retry_on_timeout=True)) == "final"


@pytest.mark.parametrize("failure", _ELSEWHERE, ids=_named)
def test_what_another_entity_may_answer_goes_elsewhere(failure: Failure) -> None:
    assert judge(failure, _endpoint()) == "elsewhere"


@pytest.mark.parametrize("failure", _AGAIN, ids=_named)
def test_what_may_pass_is_tried_again(failure: Failure) -> None:
    assert judge(failure, _endpoint()) == "again"


@pytest.mark.parametrize("kind", ["timeout", "cut", "answer"])
def test_what_may_have_been_billed_is_tried_again_where_retry_on_timeout_says_so(kind: Kind) -> None:
    assert judge(Failure(kind, "told"), _endpoint(retry_on_timeout=True)) == "again"


@pytest.mark.parametrize("refusal", get_args(Refusal))
@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_refusal_goes_elsewhere_only_where_fallback_on_names_it(refusal: Refusal, status: int) -> None:
    failure = _status(status, refusal=refusal)
    others = tuple(other for other in get_args(Refusal) if other != refusal)

    assert judge(failure, _endpoint(fallback_on=others)) == "final"
    assert judge(failure, _endpoint(fallback_on=(refusal,))) == "elsewhere"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_an_entity_that_refuses_a_request_is_well(status: int) -> None:
    assert outcome(_status(status)) == "answered"


@pytest.mark.parametrize("status", [429, 529])
def test_an_entity_that_has_enough_to_do_has_not_failed(status: int) -> None:
    assert outcome(_status(status)) == "refused"


@pytest.mark.parametrize("failure", [_status(403, refusal="content_policy"), Failure("answer", "", 200, None)])
def test_a_model_that_declines_is_well_and_one_that_cannot_be_read_is_not(failure: Failure) -> None:
    assert outcome(failure) == ("answered" if failure.refusal else "failed")


@pytest.mark.parametrize("failure", [_status(s) for s in (401, 402, 403, 408, 500, 503)], ids=_named)
def test_a_failing_server_has_failed(failure: Failure) -> None:
    assert outcome(failure) == "failed"


def test_a_request_that_was_not_sent_says_nothing_of_the_entity() -> None:
    assert outcome(Failure("request", "told")) == "unsent"


@dataclass
class _Made:
    """One attempt of a simulated call, and how it failed."""

    entity: ServedEntity
    step: Step | None
    failure: Failure
    allowed: list[ServedEntity]


_FAILURES = st.one_of(
    st.sampled_from([*_ELSEWHERE, *_AGAIN] * 2 + _FINAL),
    st.builds(_status, st.sampled_from([429, 503]), st.floats(0, 200)),
    st.builds(lambda refusal: _status(400, refusal=refusal), st.sampled_from(get_args(Refusal))),
)


@st.composite
def _calls(draw: st.DrawFn) -> tuple[Endpoint, list[_Made], Step | None]:
    """Draw an endpoint and a call to it that fails at each attempt, for as long as there is a next one."""
    count = draw(st.integers(1, 5))
    keys = draw(st.lists(st.sampled_from([None, "k1", "k2"]), min_size=count, max_size=count))
    endpoint = _endpoint(
        [_entity(number, key) for number, key in enumerate(keys)],
        max_retries=draw(st.integers(0, 8)),
        fallback_enabled=draw(st.booleans()),
        retry_on_timeout=draw(st.booleans()),
        fallback_on=draw(st.sampled_from([(), ("context_window",), ("context_window", "content_policy")])),
    )
    deadline_s, now, made = draw(st.floats(0.01, 200)), 0.0, []
    tries, step = Tries(endpoint), None
    entity = draw(st.sampled_from(endpoint.entities))
    for _ in range(50):
        failure = draw(_FAILURES)
        now += draw(st.floats(0, 10))
        tries.failed(entity, replace(failure, chance=draw(st.floats(0, 1, exclude_max=True))), now)
        left_out = draw(st.sets(st.integers(1, count), max_size=2)) if draw(st.booleans()) else set()
        allowed = [other for other in endpoint.entities if other.position not in left_out]
        made.append(_Made(entity, step, failure, allowed))
        step = tries.next(allowed, now, deadline_s - now)
        if step is None:
            return endpoint, made, None
        assert 0 <= step.wait_s < deadline_s - now
        now += step.wait_s
        entity = step.entity
    return endpoint, made, step


@given(_calls())
def test_attempts_never_exceed_the_one_budget(call: tuple[Endpoint, list[_Made], Step | None]) -> None:
    endpoint, made, step = call
    entities = len(endpoint.entities) if endpoint.fallback_enabled else 1

    assert step is None
    assert len(made) <= max(1 + endpoint.max_retries, entities)


@given(_calls())
def test_no_entity_is_asked_again_before_all_that_may_be_asked_were(
    call: tuple[Endpoint, list[_Made], Step | None],
) -> None:
    endpoint, made, _ = call
    for number, attempt in enumerate(made):
        before = made[:number]
        if not endpoint.fallback_enabled or attempt.entity.name not in {one.entity.name for one in before}:
            continue
        asked = {one.entity.name for one in before}
        refused = {
            one.entity.credential
            for one in before
            if one.failure.kind == "credential" or one.failure.status in (401, 402, 403)
        }
        unasked = [
            entity
            for entity in before[-1].allowed
            if entity.name not in asked and (entity.credential is None or entity.credential not in refused)
        ]
        assert unasked == []


@given(_calls())
def test_an_entity_that_sent_the_call_elsewhere_is_not_asked_again(
    call: tuple[Endpoint, list[_Made], Step | None],
) -> None:
    endpoint, made, _ = call
    given_up = Counter(one.entity.name for one in made if judge(one.failure, endpoint) == "elsewhere")
    for name in given_up:
        last = next(one for one in reversed(made) if one.entity.name == name)
        assert given_up[name] == 1
        assert judge(last.failure, endpoint) == "elsewhere"


@given(_calls())
def test_nothing_follows_what_is_final(call: tuple[Endpoint, list[_Made], Step | None]) -> None:
    endpoint, made, _ = call

    assert all(judge(one.failure, endpoint) != "final" for one in made[:-1])


@given(_calls())
def test_another_entity_is_a_fallback_without_a_wait_and_the_same_one_a_retry(
    call: tuple[Endpoint, list[_Made], Step | None],
) -> None:
    _, made, _ = call
    for number, attempt in enumerate(made[1:], start=1):
        assert attempt.step is not None
        asked = {one.entity.name for one in made[:number]}
        assert attempt.step.reason == ("retry" if attempt.entity.name in asked else "fallback")
        assert attempt.step.reason == "retry" or attempt.step.wait_s == 0


@given(_calls())
def test_an_entity_that_is_left_out_is_asked_only_by_force(call: tuple[Endpoint, list[_Made], Step | None]) -> None:
    _, made, _ = call
    for before, attempt in pairwise(made):
        assert attempt.step is not None
        is_allowed = attempt.entity.name in {entity.name for entity in before.allowed}
        assert attempt.step.forced == (not is_allowed)


@given(_calls())
def test_without_fallback_one_entity_gets_all_attempts(call: tuple[Endpoint, list[_Made], Step | None]) -> None:
    endpoint, made, _ = call

    assert endpoint.fallback_enabled or len({one.entity.name for one in made}) == 1


@given(_calls())
def test_with_time_left_each_allowed_entity_is_asked_before_the_end(
    call: tuple[Endpoint, list[_Made], Step | None],
) -> None:
    """Where nothing is left out, no key is refused, and nothing final came."""
    endpoint, made, _ = call
    plain = all(len(one.allowed) == len(endpoint.entities) for one in made)
    keys = any(judge(one.failure, endpoint) == "final" or one.failure.status in (401, 402, 403) for one in made)
    tries, now = Tries(endpoint), 0.0
    if not plain or keys or not endpoint.fallback_enabled or any(one.failure.kind == "credential" for one in made):
        return
    for one in made:
        tries.failed(one.entity, one.failure, now)
    step = tries.next(endpoint.entities, now, math.inf)
    asked = {one.entity.name for one in made}

    assert len(asked) == len(endpoint.entities) or (step is not None and step.entity.name not in asked)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_entities_with_the_key_that_was_refused_are_passed_over(status: int) -> None:
    entities = [_entity(0, "bad"), _entity(1, "bad"), _entity(2, "good")]
    tries = Tries(_endpoint(entities))

    tries.failed(entities[0], _status(status), 0.0)

    assert tries.next(entities, 0.0, 60.0) == Step(entities[2], 0.0, "fallback")


def test_entities_without_a_key_are_not_taken_for_entities_with_the_same_key() -> None:
    endpoint = _endpoint(2)
    tries = Tries(endpoint)

    tries.failed(endpoint.entities[0], _status(401), 0.0)

    assert tries.next(endpoint.entities, 0.0, 60.0) == Step(endpoint.entities[1], 0.0, "fallback")


def test_of_two_that_may_have_recovered_the_one_that_asked_for_less_time_is_next() -> None:
    endpoint = _endpoint(2)
    tries = Tries(endpoint)
    tries.failed(endpoint.entities[0], _status(429, 30.0), 0.0)
    tries.failed(endpoint.entities[1], _status(429, 3.0), 1.0)

    assert tries.next(endpoint.entities, 2.0, 60.0) == Step(endpoint.entities[1], 2.0, "retry")


def test_a_pause_that_is_over_is_no_wait() -> None:
    endpoint = _endpoint(1)
    tries = Tries(endpoint)
    tries.failed(endpoint.entities[0], _status(429, 3.0), 0.0)

    assert tries.next(endpoint.entities, 10.0, 60.0) == Step(endpoint.entities[0], 0.0, "retry")


def test_a_wait_as_long_as_the_time_that_is_left_is_no_attempt() -> None:
    endpoint = _endpoint(1)
    tries = Tries(endpoint)
    tries.failed(endpoint.entities[0], _status(429, 5.0), 0.0)

    assert tries.next(endpoint.entities, 0.0, 5.0) is None
    assert tries.next(endpoint.entities, 0.0, 5.1) is not None


def test_nothing_follows_when_the_time_is_over() -> None:
    endpoint = _endpoint(3)
    tries = Tries(endpoint)
    tries.failed(endpoint.entities[0], _status(500), 60.0)

    assert tries.next(endpoint.entities, 60.0, 0.0) is None


def test_who_is_left_out_is_asked_when_nobody_else_is() -> None:
    endpoint = _endpoint(2)
    tries = Tries(endpoint)
    tries.failed(endpoint.entities[0], Failure("timeout", "told"), 0.0)

    assert tries.next([endpoint.entities[0]], 0.0, 60.0) == Step(endpoint.entities[1], 0.0, "fallback", forced=True)


def test_who_is_left_out_is_asked_when_the_others_ask_for_more_time_than_there_is() -> None:
    endpoint = _endpoint(2)
    tries = Tries(endpoint)
    tries.failed(endpoint.entities[0], _status(429, 100.0), 0.0)

    step = tries.next([endpoint.entities[0]], 0.0, 60.0)

    assert step == Step(endpoint.entities[1], 0.0, "fallback", forced=True)


def test_a_wait_at_one_that_is_well_comes_before_who_is_left_out() -> None:
    endpoint = _endpoint(2)
    tries = Tries(endpoint)
    tries.failed(endpoint.entities[0], _status(429, 10.0), 0.0)

    assert tries.next([endpoint.entities[0]], 0.0, 60.0) == Step(endpoint.entities[0], 10.0, "retry")


def test_the_attempts_ahead_are_those_that_may_want_some_of_the_time() -> None:
    endpoint = _endpoint(3, retry_on_timeout=True, max_retries=2)
    tries = Tries(endpoint)

    assert tries.ahead(endpoint.entities, endpoint.entities[0]) == 3
    tries.failed(endpoint.entities[0], Failure("timeout", "told"), 0.0)
    assert tries.ahead(endpoint.entities, endpoint.entities[1]) == 2


def test_a_single_entity_that_is_not_asked_again_may_take_all_the_time() -> None:
    endpoint = _endpoint(1, max_retries=5)

    assert Tries(endpoint).ahead(endpoint.entities, endpoint.entities[0]) == 0


def test_an_answer_that_did_not_fit_takes_one_of_the_attempts() -> None:
    tries = Tries(_endpoint(1, max_retries=2))
    entity = _entity(0)

    assert tries.unusable()
    tries.failed(entity, _status(500), 0.0)
    assert tries.next([entity], 0.0, 60.0) is not None
    tries.failed(entity, _status(500), 0.0)
    assert tries.next([entity], 0.0, 60.0) is None


def test_without_retries_an_answer_that_did_not_fit_is_not_asked_for_again() -> None:
    assert not Tries(_endpoint(1, max_retries=0)).unusable()


def test_calls_that_shared_a_failure_wait_the_same_time() -> None:
    endpoint = _endpoint(1)
    waits = set()
    for _ in range(3):
        tries = Tries(endpoint)
        tries.failed(endpoint.entities[0], replace(_status(500), chance=0.3), 0.0)
        step = tries.next(endpoint.entities, 0.0, 60.0)
        assert step is not None
        waits.add(step.wait_s)

    assert waits == {0.15}


def test_who_is_left_out_and_unasked_comes_before_who_is_left_out_and_failed() -> None:
    endpoint = _endpoint(2)
    tries = Tries(endpoint)
    tries.failed(endpoint.entities[0], _status(500), 0.0)

    assert tries.next([], 0.0, 60.0) == Step(endpoint.entities[1], 0.0, "fallback", forced=True)
