"""Credentials of AWS that nobody gave to the gateway: found, exchanged, renewed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import duckdb
import pytest
from conftest import Con, Serve
from providers.bedrock_server import ACCESS_KEY, API_KEY, REGION, SECRET_KEY, Bedrock, converse_reply, error

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.testing import MockModel, Received, Reply

MODEL = "eu.amazon.nova-lite-v1:0"
ROLE = "arn:aws:iam::123456789012:role/caller"
PROFILE = "arn:aws:iam::123456789012:instance-profile/caller"
EXPIRED = error(403, "ExpiredTokenException", "The security token included in the request is expired")


@pytest.fixture(autouse=True)
def nothing_to_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine that runs the tests lends nothing of its own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    for name in (
        "AWS_PROFILE",
        "AWS_CREDENTIAL_EXPIRATION",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def serve_bedrock(serve: Serve, bedrock: Bedrock, **config: Any) -> MockModel:
    return serve(bedrock, provider="amazon-bedrock", model=MODEL, provider_config={"aws_region": REGION, **config})


def set_environment(monkeypatch: pytest.MonkeyPatch, token: str | None = None) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    if token is not None:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)


def write_profile(folder: Path, name: str) -> None:
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    (folder / "credentials").write_text(f"[{name}]\n{keys}")


def ask(con: Con, prompt: str = "hi") -> Any:
    return con.execute("select ai_query('chat', ?)", [prompt]).fetchall()[0][0]


def refusal(con: Con) -> str:
    with pytest.raises(duckdb.Error) as caught:
        ask(con)
    return str(caught.value)


# ---------------------------------------------------------------- the default chain


def test_keys_are_found_in_the_environment(serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, "a-token")
    server = serve_bedrock(serve, Bedrock(converse_reply("hello"), tokens={ACCESS_KEY: "a-token"}))
    assert (ask(con), server.requests[0].headers["x-amz-security-token"]) == ("hello", "a-token")


def test_keys_are_found_in_the_shared_credentials_file(serve: Serve, con: Con, tmp_path: Path) -> None:
    write_profile(tmp_path, "default")
    serve_bedrock(serve, Bedrock(converse_reply("hello")))
    assert ask(con) == "hello"


def test_a_profile_goes_before_the_environment(
    serve: Serve, con: Con, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    write_profile(tmp_path, "work")
    serve_bedrock(serve, Bedrock(converse_reply("hello")), aws_profile="work")
    assert ask(con) == "hello"


def test_an_api_key_in_the_environment_goes_before_keys(
    serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", API_KEY)
    server = serve_bedrock(serve, Bedrock(converse_reply("hello"), secrets={}))
    assert (ask(con), server.requests[0].headers["authorization"]) == ("hello", f"Bearer {API_KEY}")


def test_the_chain_is_asked_once_for_many_calls(serve: Serve, con: Con, tmp_path: Path) -> None:
    write_profile(tmp_path, "default")
    serve_bedrock(serve, Bedrock(converse_reply("hello")))
    ask(con)
    (tmp_path / "credentials").unlink()
    assert ask(con, "again") == "hello"


def test_credentials_that_have_run_out_are_looked_for_anew(
    serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is repeated once with what the environment says by then."""
    set_environment(monkeypatch, "old")

    def answer(received: Received) -> Reply:
        if received.headers["x-amz-security-token"] == "new":
            return converse_reply("hello")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "new")
        return EXPIRED

    server = serve_bedrock(serve, Bedrock(answer))
    assert (ask(con), server.request_count) == ("hello", 2)


def test_credentials_that_stay_expired_are_tried_twice(serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, "old")
    server = serve_bedrock(serve, Bedrock(EXPIRED))
    assert "aws sso login" in refusal(con)
    assert server.request_count == 2


class Movable(Clock):
    """Goes on by as much as it is told to."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


def test_credentials_are_renewed_before_they_run_out(monkeypatch: pytest.MonkeyPatch, add_endpoint: Any) -> None:
    """They hold for half an hour, of which a quarter is relied on."""
    clock = Movable()
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", f"{datetime.now(UTC) + timedelta(minutes=29):%Y-%m-%dT%H:%M:%SZ}")
    set_environment(monkeypatch, "old")
    config = {"aws_region": REGION}
    with MockModel(Bedrock(converse_reply("hello"))) as server, fleming_sql.connect(user="ada", clock=clock) as con:
        add_endpoint(con, base_url=server.url, provider="amazon-bedrock", model=MODEL, provider_config=config)
        for prompt, token, ahead_s in (("a", "old", 0), ("b", "new", 800), ("c", "new", 1000)):
            set_environment(monkeypatch, token)
            clock.ahead_s = ahead_s
            ask(con, prompt)
        sent = [request.headers["x-amz-security-token"] for request in server.requests]
    assert sent == ["old", "old", "new"]


def test_credentials_that_have_run_out_already_are_told(
    serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z")
    server = serve_bedrock(serve, Bedrock(converse_reply("hello")))
    assert "still expired" in refusal(con)
    assert server.request_count == 0


def test_a_machine_without_credentials_is_told_where_they_are_looked_for(serve: Serve, con: Con) -> None:
    server = serve_bedrock(serve, Bedrock(converse_reply("hello")))
    assert "no AWS credentials were found, neither in the environment (AWS_ACCESS_KEY_ID)" in refusal(con)
    assert server.request_count == 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"aws_profile": "work"}, "The config profile (work) could not be found"),
        ({"instance_profile_arn": ROLE}, "a role is named in aws_role_arn"),
        ({"instance_profile_arn": PROFILE}, "this machine lends no credentials"),
        ({"aws_access_key_id": "AKIA", "aws_secret_access_key": "plain"}, "plain text"),
    ],
)
def test_what_cannot_be_found_is_named(serve: Serve, con: Con, config: dict[str, Any], words: str) -> None:
    serve_bedrock(serve, Bedrock(converse_reply("hello")), **config)
    assert words in refusal(con)


def test_a_missing_botocore_is_told_with_its_install_command(
    serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    serve_bedrock(serve, Bedrock(converse_reply("hello")))
    assert "pip install 'fleming-sql[bedrock]'" in refusal(con)


# ---------------------------------------------------------------- roles


def sts(received: Received) -> Reply:
    """Lend the keys of a role to those who ask for it in STS's own way."""
    asked = parse_qs(received.body.decode())
    if asked["RoleArn"] != [ROLE]:
        problem = "<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not yours</Message></Error>"
        return Reply(status=403, body=f"<ErrorResponse>{problem}</ErrorResponse>")
    assert asked["Action"] == ["AssumeRole"]
    assert f"Credential={ACCESS_KEY}/" in received.headers["authorization"]
    lent = "<AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>role-secret</SecretAccessKey>"
    end = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    lent = f"<Credentials>{lent}<SessionToken>role-token</SessionToken><Expiration>{end}</Expiration></Credentials>"
    body = f"<AssumeRoleResponse><AssumeRoleResult>{lent}</AssumeRoleResult></AssumeRoleResponse>"
    return Reply(body=body, headers={"content-type": "text/xml"})


def test_a_role_is_assumed_once_with_the_keys_that_are_found(
    serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch)
    answer = Bedrock(converse_reply("hello"), secrets={"ASIAROLE": "role-secret"}, tokens={"ASIAROLE": "role-token"})
    with MockModel(sts) as token_server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", token_server.url)
        serve_bedrock(serve, answer, aws_role_arn=ROLE, aws_external_id="ours")
        assert [ask(con), ask(con, "again")] == ["hello", "hello"]
        [asked] = token_server.requests
    assert parse_qs(asked.body.decode())["ExternalId"] == ["ours"]


def test_a_role_that_may_not_be_assumed_is_told(serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch)
    with MockModel(sts) as token_server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", token_server.url)
        serve_bedrock(serve, Bedrock(converse_reply("hello")), aws_role_arn=f"{ROLE}-2")
        assert "not yours" in refusal(con)


def metadata(received: Received) -> Reply:
    """Answer as the metadata service of a machine with an instance profile."""
    answers: Mapping[str, Any] = {
        "/latest/api/token": "imds-token",
        "/latest/meta-data/iam/security-credentials/": "caller",
        "/latest/meta-data/iam/security-credentials/caller": {
            "Code": "Success",
            "AccessKeyId": ACCESS_KEY,
            "SecretAccessKey": SECRET_KEY,
            "Token": "machine-token",
            "Expiration": f"{datetime.now(UTC) + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}",
        },
    }
    return Reply(body=answers[received.path])


def test_an_instance_profile_lends_the_keys_of_the_machine(
    serve: Serve, con: Con, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, "not this one")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with MockModel(metadata) as machine:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", machine.url)
        answer = Bedrock(converse_reply("hello"), tokens={ACCESS_KEY: "machine-token"})
        serve_bedrock(serve, answer, instance_profile_arn=PROFILE)
        assert ask(con) == "hello"
