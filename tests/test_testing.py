from __future__ import annotations

import asyncio
import math
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import orjson
import pytest

from fleming_sql.testing import (
    Capacity,
    Constant,
    Faults,
    MockModel,
    Phases,
    Received,
    Reply,
    Switch,
    after,
    chat_reply,
    echo_chat,
    error_reply,
)

_CHAT = {"model": "m", "messages": [{"role": "user", "content": "hé"}]}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10) as client:
        yield client


def test_a_reply_arrives_with_its_status(client: httpx.Client) -> None:
    with MockModel(lambda received: error_reply(429, "slow down")) as server:
        assert client.get(server.url).status_code == 429


def test_a_reply_arrives_with_its_headers(client: httpx.Client) -> None:
    with MockModel(lambda received: Reply(headers={"Retry-After": "3"})) as server:
        assert client.get(server.url).headers["retry-after"] == "3"


@pytest.mark.parametrize("body", [b"raw", "raw"])
def test_a_plain_body_arrives_as_it_is(client: httpx.Client, body: bytes | str) -> None:
    with MockModel(lambda received: Reply(body=body)) as server:
        assert client.get(server.url).content == b"raw"


def test_an_object_arrives_as_json(client: httpx.Client) -> None:
    with MockModel(lambda received: Reply(body={"a": [1]})) as server:
        assert client.get(server.url).json() == {"a": [1]}


def test_echo_chat_answers_with_the_last_user_text(client: httpx.Client) -> None:
    with MockModel(echo_chat) as server:
        answer = client.post(f"{server.url}/v1/chat/completions", json=_CHAT).json()
    assert answer["choices"][0]["message"]["content"] == "echo: hé"


def test_a_request_is_recorded(client: httpx.Client) -> None:
    with MockModel(echo_chat) as server:
        client.post(f"{server.url}/v1/chat?a=b", json=_CHAT, headers={"X-Key": "k"})
        (received,) = server.requests
    seen = (received.method, received.path, received.headers["x-key"], received.json())
    assert seen == ("POST", "/v1/chat?a=b", "k", _CHAT)


def test_record_false_counts_and_keeps_nothing(client: httpx.Client) -> None:
    with MockModel(echo_chat, record=False) as server:
        client.post(server.url, json=_CHAT)
        assert (server.request_count, server.requests) == (1, [])


def test_connections_are_kept_alive(client: httpx.Client) -> None:
    with MockModel(echo_chat) as server:
        for _ in range(5):
            client.post(server.url, json=_CHAT)
        assert (server.request_count, server.connections) == (5, 1)


def test_a_large_body_arrives_whole(client: httpx.Client) -> None:
    with MockModel(lambda received: Reply(body=str(len(received.body)))) as server:
        assert client.post(server.url, content=b"x" * 5_000_000).text == "5000000"


def test_a_request_in_pieces_is_put_together() -> None:
    with MockModel(lambda received: Reply(body=received.body)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            for piece in (b"POST / HTTP/1.1\r\nConte", b"nt-Length: 4\r\n\r", b"\nab", b"cd"):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            server.wait_until(lambda server: server.request_count == 1)
        assert server.requests[0].body == b"abcd"


def test_a_chunked_request_is_refused(client: httpx.Client) -> None:
    with MockModel(echo_chat) as server:
        assert client.post(server.url, content=iter([b"a", b"b"])).status_code == 411


def test_a_delay_is_kept(client: httpx.Client) -> None:
    with MockModel(lambda received: Reply(delay_s=0.05)) as server:
        assert client.get(server.url).elapsed.total_seconds() >= 0.05


def test_drop_closes_before_the_answer(client: httpx.Client) -> None:
    with MockModel(lambda received: Reply(drop=True)) as server, pytest.raises(httpx.RemoteProtocolError):
        client.get(server.url)


def test_cut_after_closes_in_mid_answer(client: httpx.Client) -> None:
    with (
        MockModel(lambda received: Reply(body="x" * 50, cut_after=5)) as server,
        pytest.raises(httpx.RemoteProtocolError, match="received 5 bytes, expected 50"),
    ):
        client.get(server.url)


def test_hang_never_answers() -> None:
    with MockModel(lambda received: Reply(hang=True)) as server, pytest.raises(httpx.ReadTimeout):
        httpx.get(server.url, timeout=0.05)


def test_a_client_that_leaves_is_counted_as_abandoned() -> None:
    with MockModel(lambda received: Reply(delay_s=60)) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(server.url, timeout=0.05)
        server.wait_until(lambda server: server.abandoned == 1)
        assert server.in_flight == 0


def test_requests_in_flight_are_counted() -> None:
    with MockModel(lambda received: Reply(hang=True)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            server.wait_until(lambda server: server.in_flight == 1)
        server.wait_until(lambda server: server.in_flight == 0)
        assert server.peak_in_flight == 1


def test_the_peak_is_the_most_requests_at_once() -> None:
    with MockModel(lambda received: Reply(hang=True)) as server:
        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for connection in connections:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_until(lambda server: server.in_flight == 3)
        for connection in connections:
            connection.close()
        server.wait_until(lambda server: server.in_flight == 0)
        assert server.peak_in_flight == 3


def test_a_failing_reply_function_is_told_to_the_client(client: httpx.Client) -> None:
    with MockModel(lambda received: Reply(body=received.headers["x-missing"])) as server:
        assert "KeyError('x-missing')" in client.get(server.url).text


def test_wait_until_gives_up() -> None:
    with MockModel(echo_chat) as server, pytest.raises(TimeoutError, match="requests=0"):
        server.wait_until(lambda server: server.request_count == 1, timeout_s=0.01)


def test_a_port_in_use_is_an_error() -> None:
    with (
        MockModel(echo_chat) as server,
        pytest.raises(OSError, match="in use"),
        MockModel(echo_chat, port=server.port),
    ):
        pass


def test_a_port_can_be_taken_again() -> None:
    with MockModel(echo_chat) as first:
        httpx.post(first.url, json=_CHAT)
    with MockModel(echo_chat, port=first.port) as second:
        assert httpx.post(second.url, json=_CHAT).status_code == 200


def test_a_constant_is_answered_without_a_record(client: httpx.Client) -> None:
    with MockModel(Constant(chat_reply("hi"))) as server:
        answer = client.post(server.url, json=_CHAT).json()
        assert (answer["choices"][0]["message"]["content"], server.requests) == ("hi", [])


def test_a_constant_comes_after_its_drawn_delay(client: httpx.Client) -> None:
    with MockModel(Constant(chat_reply("hi"), lambda: 0.05)) as server:
        assert client.post(server.url, json=_CHAT).elapsed.total_seconds() >= 0.05


def test_many_requests_at_once_are_all_answered() -> None:
    async def post_many(url: str) -> list[int]:
        async with httpx.AsyncClient(timeout=30) as client:
            answers = await asyncio.gather(*(client.post(url, json=_CHAT) for _ in range(200)))
        return [answer.status_code for answer in answers]

    with MockModel(echo_chat) as server:
        assert asyncio.run(post_many(server.url)) == [200] * 200


def _asked(at: float = 0.0) -> Received:
    return Received("POST", "/v1/chat/completions", {}, orjson.dumps(_CHAT), at)


def _down(received: Received) -> Reply:
    return error_reply(500, "down")


def _kinds(replies: Sequence[Reply]) -> list[str]:
    """Tell the faults apart by what a client would see."""

    def kind(reply: Reply) -> str:
        if reply.status != 200:
            return str(reply.status)
        if reply.hang:
            return "hung"
        return "cut" if reply.cut_after is not None else "malformed" if isinstance(reply.body, bytes) else "fine"

    return [kind(reply) for reply in replies]


def test_an_answer_after_a_delay_is_the_same_answer_later() -> None:
    assert after(0.5)(_asked()) == echo_chat(_asked()).delayed(0.5)


def test_a_delay_may_be_drawn() -> None:
    draws = iter([0.1, 0.2])
    answer = after(lambda: next(draws))
    assert [answer(_asked()).delay_s, answer(_asked()).delay_s] == [0.1, 0.2]


def test_faults_come_in_the_shares_asked_for() -> None:
    faults = Faults(seed=1)
    for _ in range(100_000):
        faults(_asked())
    shares = {kind: count / 100_000 for kind, count in faults.counts.items()}
    asked = {"refused": 0.10, "failed": 0.05, "hung": 0.01, "cut": 0.01, "malformed": 0.005}
    assert shares == pytest.approx(asked, abs=4 * math.sqrt(0.1 * 0.9 / 100_000))


def test_the_same_seed_spoils_the_same_requests() -> None:
    first, second = Faults(seed=7), Faults(seed=7)
    assert _kinds([first(_asked()) for _ in range(500)]) == _kinds([second(_asked()) for _ in range(500)])


def test_another_seed_spoils_others() -> None:
    first, second = Faults(seed=7), Faults(seed=8)
    assert _kinds([first(_asked()) for _ in range(500)]) != _kinds([second(_asked()) for _ in range(500)])


def test_faults_are_counted_as_they_are_injected() -> None:
    faults = Faults(seed=1, refused=0.2, failed=0.2, hung=0.2, cut=0.2, malformed=0.1)
    kinds = _kinds([faults(_asked()) for _ in range(300)])
    names = {"refused": "429", "failed": "500", "hung": "hung", "cut": "cut", "malformed": "malformed"}
    assert faults.counts == {name: kinds.count(kind) for name, kind in names.items()}
    assert faults.injected == 300 - kinds.count("fine")


@pytest.mark.parametrize("shares", [{"refused": -0.1}, {"refused": 0.6, "failed": 0.6}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares of faults"):
        Faults(seed=1, **shares)  # type: ignore[arg-type]


NONE = {"refused": 0.0, "failed": 0.0, "hung": 0.0, "cut": 0.0, "malformed": 0.0}


def _only(kind: str, **options: Any) -> Faults:
    return Faults(**{"seed": 1, **NONE, kind: 1.0, **options})


@pytest.mark.parametrize(
    ("seconds", "headers"),
    [(2.0, {"retry-after": "2"}), (0.25, {"retry-after": "1", "retry-after-ms": "250"})],
)
def test_a_refusal_tells_when_to_come_back(seconds: float, headers: dict[str, str]) -> None:
    reply = _only("refused", retry_after_s=seconds)(_asked())
    assert (reply.status, reply.headers) == (429, headers)


def test_a_refusal_comes_at_once() -> None:
    assert _only("refused", delay_s=1.0)(_asked()).delay_s == 0


@pytest.mark.parametrize("kind", ["failed", "cut", "malformed"])
def test_other_faults_take_as_long_as_the_answer(kind: str) -> None:
    assert _only(kind, delay_s=1.0)(_asked()).delay_s == 1.0


def test_a_cut_answer_breaks_off_in_the_body(client: httpx.Client) -> None:
    with (
        MockModel(_only("cut")) as server,
        pytest.raises(httpx.RemoteProtocolError, match=r"received [1-9][0-9]* bytes, expected"),
    ):
        client.post(server.url, json=_CHAT)


def test_a_malformed_answer_is_whole_and_no_json(client: httpx.Client) -> None:
    with MockModel(_only("malformed")) as server:
        answer = client.post(server.url, json=_CHAT)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        answer.json()


def test_requests_beyond_the_places_are_refused(client: httpx.Client) -> None:
    capacity = Capacity(3, reply=lambda received: Reply(hang=True))
    with MockModel(capacity) as server:
        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for connection in connections:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_until(lambda server: server.in_flight == 3)
        assert client.post(server.url, json=_CHAT).status_code == 429
        assert (capacity.in_service, capacity.served, capacity.refused) == (3, 3, 1)
        for connection in connections:
            connection.close()


def test_a_place_is_free_again_after_the_answer(client: httpx.Client) -> None:
    capacity = Capacity(1)
    with MockModel(capacity) as server:
        assert [client.post(server.url, json=_CHAT).status_code for _ in range(3)] == [200] * 3
    assert capacity.in_service == 0


def test_a_place_is_free_again_when_its_client_leaves() -> None:
    capacity = Capacity(1, delay_s=60)
    with MockModel(capacity) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url, json=_CHAT, timeout=0.05)
        server.wait_until(lambda server: server.abandoned == 1)
        assert capacity.in_service == 0


def test_places_may_change_while_the_server_runs(client: httpx.Client) -> None:
    capacity = Capacity(1)
    with MockModel(capacity) as server:
        client.post(server.url, json=_CHAT)
        capacity.places = 0
        assert client.post(server.url, json=_CHAT).status_code == 429


def test_a_capacity_within_another_gives_both_places_back(client: httpx.Client) -> None:
    inner = Capacity(1)
    with MockModel(Capacity(2, reply=inner)) as server:
        assert [client.post(server.url, json=_CHAT).status_code for _ in range(3)] == [200] * 3
    assert inner.in_service == 0


def test_phases_follow_each_other_from_the_first_request_on() -> None:
    phases = Phases([(10, _down), (5, after(2.0)), (math.inf, echo_chat)])
    replies = [phases(_asked(at)) for at in (100.0, 109.9, 110.1, 114.9, 115.1, 9999.0)]
    seen = [(reply.status, reply.delay_s) for reply in replies]
    assert seen == [(500, 0), (500, 0), (200, 2), (200, 2), (200, 0), (200, 0)]


def test_the_last_phase_stays() -> None:
    phases = Phases([(1, echo_chat), (1, _down)])
    assert [phases(_asked(at)).status for at in (0.0, 1.5, 50.0)] == [200, 500, 500]


def test_phases_tell_when_they_began() -> None:
    phases = Phases([(1, echo_chat)])
    assert phases.began_at is None
    phases(_asked(at=3.0))
    assert phases.began_at == 3.0


def test_no_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="one phase"):
        Phases([])


def test_a_switch_answers_as_it_is_told(client: httpx.Client) -> None:
    switch = Switch(_down)
    with MockModel(switch) as server:
        before = client.post(server.url, json=_CHAT).status_code
        switch.use(echo_chat)
        assert (before, client.post(server.url, json=_CHAT).status_code) == (500, 200)


def test_stats_hold_what_the_reply_counts(client: httpx.Client) -> None:
    faults = _only("failed")
    with MockModel(faults, stats=lambda: faults.counts) as server:
        client.post(server.url, json=_CHAT)
        stats = client.get(f"{server.url}/stats").json()
        assert (stats["failed"], stats["requests"], server.request_count) == (1, 1, 1)


def test_without_stats_their_path_is_one_like_others(client: httpx.Client) -> None:
    with MockModel(lambda received: Reply(body="mine")) as server:
        assert client.get(f"{server.url}/stats").text == "mine"


def _start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fleming_sql.testing", "--latency-ms", "1", "--sigma", "0.3", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_command_prints_its_url_and_serves_stats(client: httpx.Client) -> None:
    with _start() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        client.post(f"{url}/v1/chat/completions", json=_CHAT)
        assert client.get(f"{url}/stats").json() == {"requests": 1, "peak_in_flight": 1, "in_flight": 0}
        process.stdin.close()


def test_the_command_ends_when_its_input_closes() -> None:
    with _start() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(10) == 0


def test_the_command_ends_at_sigterm() -> None:
    with _start() as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("options", "statuses"),
    [
        (["--refused", "1", "--retry-after-ms", "100"], [429, 429]),
        (["--failed", "1"], [500, 500]),
        (["--down-for-s", "3600"], [500, 500]),
        (["--slow-after-s", "0", "--slow-ms", "1"], [200, 200]),
        (["--places", "0"], [429, 429]),
        (["--places", "1"], [200, 200]),
    ],
)
def test_the_command_injects_what_it_is_asked_for(
    client: httpx.Client, options: list[str], statuses: list[int]
) -> None:
    with _start(*options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert [client.post(url, json=_CHAT).status_code for _ in range(2)] == statuses
        process.stdin.close()


def test_the_command_counts_its_faults(client: httpx.Client) -> None:
    with _start("--failed", "1") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        client.post(url, json=_CHAT)
        stats = client.get(f"{url}/stats").json()
        process.stdin.close()
    assert (stats["requests"], stats["failed"], stats["refused"]) == (1, 1, 0)
    assert stats["age_s"] >= 0


def test_the_command_tells_of_impossible_shares() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fleming_sql.testing", "--refused", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "shares of faults" in done.stderr
