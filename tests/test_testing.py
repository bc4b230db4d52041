from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from fleming_sql.testing import Constant, MockModel, Reply, chat_reply, echo_chat, error_reply

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


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fleming_sql.testing", "--latency-ms", "1", "--sigma", "0.3"],
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
