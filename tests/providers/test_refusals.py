from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.providers.anthropic import Anthropic
from fleming_sql.providers.base import BadAnswer
from fleming_sql.providers.openai import OpenAI
from fleming_sql.providers.refusals import read_refusal
from fleming_sql.types import CHAT, COMPLETIONS, ModelRequest

_TOO_LONG = "This model's maximum context length is 8192 tokens."
_CONTEXT_WINDOW = {
    "openai": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 8192 tokens. However, your messages resulted in "
                "9000 tokens. Please reduce the length of the messages.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    "openai by its code": (400, {"error": {"message": "no", "code": "context_length_exceeded"}}),
    "openai responses": (
        400,
        {"error": {"message": "Your input exceeds the context window of this model. Please adjust your input."}},
    ),
    "openai configured limit": (
        400,
        {
            "error": {
                "message": "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in "
                "509178 tokens."
            }
        },
    ),
    "openai very long text": (
        400,
        {
            "error": {
                "message": "Invalid 'messages[0].content': string too long. Expected a string with maximum length "
                "10485760, but got a string with length 20000000 instead.",
                "code": "string_above_max_length",
            }
        },
    ),
    "anthropic": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "prompt is too long: 208310 tokens > 200000 maximum",
            },
        },
    ),
    "anthropic with max_tokens": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "input length and `max_tokens` exceed context limit: 188059 + 20000 > 200000, decrease "
                "input length or `max_tokens` and try again",
            },
        },
    ),
    "anthropic bytes": (
        413,
        {
            "type": "error",
            "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"},
        },
    ),
    "bedrock": (400, {"message": "Input is too long for requested model."}),
    "bedrock titan": (
        400,
        {"message": "400 Bad Request: Too many input tokens. Max input tokens: 8192, request input token count: 9000"},
    ),
    "gemini": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1200293) exceeds the maximum number of tokens allowed "
                    "(1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "vertex": (
        400,
        {
            "error": {
                "message": "Unable to submit request because the input token count is 1200000 but model only "
                "supports up to 1048576. Reduce the input token count and try again."
            }
        },
    ),
    "vllm": (
        400,
        {
            "object": "error",
            "message": "'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context "
            "length is 4096 tokens and your request has 2104 input tokens (2000 > 4096 - 2104).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "vllm prompt": (
        400,
        {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."},
    ),
    "sglang": (
        400,
        {"message": "The input (9000 tokens) is longer than the model's context length (8192 tokens)."},
    ),
    "llama.cpp": (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (13392 tokens) exceeds the available context size (8192 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 13392,
                "n_ctx": 8192,
            }
        },
    ),
    "ollama": (400, {"error": "the input length exceeds the context length"}),
    "lm studio": (
        400,
        {"error": "tokens to keep from the initial prompt is greater than the context length"},
    ),
    "text-embeddings-inference": (
        413,
        {
            "error": "Input validation error: `inputs` must have less than 512 tokens. Given: 598",
            "error_type": "Validation",
        },
    ),
    "text-generation-inference": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` "
            "tokens and 500 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    "databricks": (
        400,
        {
            "error_code": "BAD_REQUEST",
            "message": "Bad request: rpc error: code = InvalidArgument desc = prompt token count (29) + max output "
            "tokens (4085) cannot exceed 4096. Please reduce the length of your prompt and/or max output tokens "
            "generated.",
        },
    ),
    "databricks in front of openai": (
        400,
        {
            "error_code": "BAD_REQUEST",
            "message": json.dumps({"error": {"message": _TOO_LONG, "code": "context_length_exceeded"}}),
        },
    ),
    "mistral": (
        400,
        {
            "object": "error",
            "message": "Prompt contains 65673 tokens and 0 draft tokens, too large for model with 32768 maximum "
            "context length",
        },
    ),
    "groq": (
        400,
        {
            "error": {
                "message": "Please reduce the length of the messages or completion.",
                "type": "invalid_request_error",
            }
        },
    ),
    "xai": (
        400,
        {"error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."},
    ),
    "cohere": (
        400,
        {
            "message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 8000. "
            "Try using a shorter prompt"
        },
    ),
    "minimax": (400, {"error": {"message": "invalid params, context window exceeds limit"}}),
    "moonshot": (
        400,
        {"error": {"message": "Invalid request: Your request exceeded model token limit: 262144"}},
    ),
    "alibaba": (400, {"message": "Range of input length should be [1, 30720]", "code": "InvalidParameter"}),
    "poolside": (
        400,
        {"error": {"message": "Input length 131393 exceeds the maximum allowed input length of 131040 tokens."}},
    ),
    "openrouter with the answer inside": (
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {"raw": json.dumps({"error": {"message": _TOO_LONG}}), "provider_name": "X"},
            }
        },
    ),
    "a fastapi server": (422, {"detail": [{"type": "value_error", "msg": _TOO_LONG, "input": "…"}]}),
    "text that is no json": (400, "Error: " + _TOO_LONG),
    "too large for a proxy": (413, "<html>413 Request Entity Too Large</html>"),
}
_CONTENT_POLICY = {
    "openai": (
        400,
        {
            "error": {
                "code": "content_policy_violation",
                "message": "Your request was rejected as a result of our safety system.",
                "type": "invalid_request_error",
            }
        },
    ),
    "openai usage policy": (
        400,
        {
            "error": {
                "message": "Invalid prompt: your prompt was flagged as potentially violating our usage policy. "
                "Please try again with a different prompt.",
                "type": "invalid_request_error",
                "code": "invalid_prompt",
            }
        },
    ),
    "azure": (
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
                "policy. Please modify your prompt and retry.",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
                },
            }
        },
    ),
    "azure by its inner error": (
        400,
        {"error": {"message": "no", "code": "400", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
    ),
    "anthropic": (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
        },
    ),
    "bedrock": (400, {"message": "This request has been blocked by our content filters."}),
    "databricks guardrail": (
        400,
        {
            "error_code": "BAD_REQUEST",
            "message": json.dumps(
                {
                    "usage": {"prompt_tokens": 0},
                    "input_guardrail": [{"flagged": True, "categories": {"hate": True}}],
                    "finishReason": "input_guardrail_triggered",
                }
            ),
        },
    ),
    "openrouter": (
        403,
        {
            "error": {
                "code": 403,
                "message": 'openai/m requires moderation on OpenAI. Your input was flagged for "violence".',
                "metadata": {"reasons": ["violence"], "flagged_input": "…"},
            }
        },
    ),
    "xai": (
        403,
        {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
        },
    ),
    "deepseek": (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}),
    "alibaba": (
        400,
        {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."},
    ),
    "moonshot": (
        400,
        {
            "error": {
                "type": "content_filter",
                "message": "The request was rejected because it was considered high risk",
            }
        },
    ),
}
_NEITHER = {
    "a parameter": (400, {"error": {"message": "max_tokens must be positive", "param": "max_tokens"}}),
    "openai output tokens": (
        400,
        {
            "error": {
                "message": "max_tokens is too large: 50000. This model supports at most 16384 completion tokens, "
                "whereas you provided 50000.",
                "code": "invalid_value",
            }
        },
    ),
    "anthropic output tokens": (
        400,
        {
            "error": {
                "type": "invalid_request_error",
                "message": "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens",
            }
        },
    ),
    "databricks output tokens": (
        400,
        {"message": "max_tokens (10000) cannot exceed 8192. Please reduce the length of max output tokens generated."},
    ),
    "bedrock output tokens": (
        400,
        {"message": "The maximum tokens you requested exceeds the model limit of 32768"},
    ),
    "a long user name": (
        400,
        {
            "error": {
                "message": "Invalid 'user': string too long. Expected a string with maximum length 64, but got a "
                "string with length 100 instead.",
                "code": "string_above_max_length",
            }
        },
    ),
    "a large image": (400, {"error": {"message": "messages.0: image exceeds 5 MB maximum: 6000000 bytes"}}),
    "a bad key of aws": (
        403,
        {"message": "User: x is not authorized with an explicit deny in an identity-based policy"},
    ),
    "a firewall": (403, {"error": {"code": "AccessDenied", "message": "Access denied due to Virtual Network rules."}}),
    "a 403 without text": (403, ""),
    "an echo beside the message": (
        422,
        {"detail": [{"msg": "Input should be a valid integer", "input": f"Why is it that {_TOO_LONG}"}]},
    ),
    "the prompt in another field": (400, {"error": {"message": "bad", "prompt": _TOO_LONG, "body": [_TOO_LONG]}}),
    "the request sent back": (422, {"error": {"message": "bad", "input": {"message": _TOO_LONG}}}),
    "nothing": (400, None),
    "a number": (400, 7),
}


@pytest.mark.parametrize(("status", "payload"), _CONTEXT_WINDOW.values(), ids=_CONTEXT_WINDOW)
def test_an_answer_to_what_is_too_long_is_a_refusal_for_the_context_window(status: int, payload: Any) -> None:
    assert read_refusal(status, payload) == "context_window"


@pytest.mark.parametrize(("status", "payload"), _CONTENT_POLICY.values(), ids=_CONTENT_POLICY)
def test_an_answer_to_what_is_not_wanted_is_a_refusal_for_the_content_policy(status: int, payload: Any) -> None:
    assert read_refusal(status, payload) == "content_policy"


@pytest.mark.parametrize(("status", "payload"), _NEITHER.values(), ids=_NEITHER)
def test_an_error_of_another_kind_is_no_refusal(status: int, payload: Any) -> None:
    assert read_refusal(status, payload) is None


@pytest.mark.parametrize("status", [200, 401, 402, 404, 408, 429, 500, 503, 529])
def test_a_status_with_a_treatment_of_its_own_is_no_refusal(status: int) -> None:
    assert read_refusal(status, {"error": {"message": _TOO_LONG, "code": "context_length_exceeded"}}) is None


def test_a_code_is_believed_before_a_message() -> None:
    assert read_refusal(400, {"error": {"message": _TOO_LONG, "code": "content_filter"}}) == "content_policy"


@pytest.mark.parametrize("wrapped", ["[" * 50_000, "{" * 3, '{"error": ' * 2_000 + "1" + "}" * 2_000])
def test_a_message_that_only_looks_like_json_is_text(wrapped: str) -> None:
    assert read_refusal(400, {"error": {"message": wrapped}}) is None


def test_an_answer_nested_in_itself_ends() -> None:
    payload: dict[str, Any] = {"message": "bad"}
    payload["error"] = payload

    assert read_refusal(400, payload) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "detail", "raw", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.sampled_from([400, 403, 413, 422]), _JSON)
def test_any_answer_can_be_read(status: int, payload: Any) -> None:
    assert read_refusal(status, payload) in (None, "context_window", "content_policy")


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic()], ids=["openai", "anthropic"])
def test_a_provider_reads_refusals(provider: OpenAI | Anthropic) -> None:
    assert provider.read_refusal(400, {"error": {"message": _TOO_LONG}}) == "context_window"


def _openai(choice: dict[str, Any] | None, task: Any = CHAT, **more: Any) -> BadAnswer:
    request = ModelRequest(task, {}, inputs=("hi",), messages=({"role": "user", "content": "hi"},))
    payload = more if choice is None else {"choices": [choice]}
    with pytest.raises(BadAnswer) as refused:
        OpenAI().decode(request, payload)
    return refused.value


def _anthropic(stop_reason: str, *blocks: dict[str, Any]) -> BadAnswer:
    request = ModelRequest(CHAT, {}, messages=({"role": "user", "content": "hi"},))
    with pytest.raises(BadAnswer) as refused:
        Anthropic().decode(request, {"content": list(blocks), "stop_reason": stop_reason})
    return refused.value


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "content_filter", "message": {"content": None}},
        {"finish_reason": "content_filter", "message": {"content": ""}},
        {"finish_reason": "content_filter", "message": {}},
        {"finish_reason": "content_filter", "message": {"content": []}},
        {"finish_reason": "content_filter", "message": {"content": [{"type": "text", "text": ""}]}},
        {"finish_reason": "stop", "message": {"content": None, "refusal": "I will not."}},
        {"finish_reason": "stop", "message": {"content": "", "refusal": "I will not."}},
        {"finish_reason": "stop", "message": {"content": [{"type": "refusal", "refusal": "I will not."}]}},
    ],
)
def test_a_chat_without_content_that_was_filtered_or_refused_is_a_refusal(choice: dict[str, Any]) -> None:
    assert _openai(choice).refusal == "content_policy"


@pytest.mark.parametrize("text", ["", None])
def test_a_completion_without_text_that_was_filtered_is_a_refusal(text: str | None) -> None:
    refused = _openai({"finish_reason": "content_filter", "text": text}, COMPLETIONS)

    assert refused.refusal == "content_policy"


@pytest.mark.parametrize("choice", [{"message": {"content": None}}, {"message": None}, {}])
def test_a_chat_without_content_for_no_stated_reason_is_no_refusal(choice: dict[str, Any]) -> None:
    assert _openai(choice).refusal is None


@pytest.mark.parametrize(
    "message",
    [{"content": "Half of it"}, {"content": [{"type": "text", "text": "Half of it"}]}],
)
def test_what_was_written_before_the_filter_is_an_answer(message: dict[str, Any]) -> None:
    payload = {"choices": [{"finish_reason": "content_filter", "message": message}]}

    assert OpenAI().decode(ModelRequest(CHAT, {}), payload).content == "Half of it"


def test_an_empty_text_that_was_not_filtered_is_an_answer() -> None:
    payload = {"choices": [{"finish_reason": "stop", "message": {"content": "", "refusal": None}}]}

    assert OpenAI().decode(ModelRequest(CHAT, {}), payload).content == ""


def test_an_error_with_status_200_is_read_too() -> None:
    assert _openai(None, error={"code": 400, "message": _TOO_LONG}).refusal == "context_window"


def test_a_rate_limit_with_status_200_is_no_refusal() -> None:
    assert _openai(None, error={"code": 429, "message": _TOO_LONG}).refusal is None


@pytest.mark.parametrize(
    ("stop_reason", "refusal"),
    [("refusal", "content_policy"), ("model_context_window_exceeded", "context_window"), ("end_turn", None)],
)
def test_a_message_without_text_says_by_its_stop_reason_what_was_refused(stop_reason: str, refusal: str | None) -> None:
    assert _anthropic(stop_reason).refusal == refusal


@pytest.mark.parametrize("stop_reason", ["refusal", "model_context_window_exceeded"])
def test_an_empty_block_of_text_is_no_text(stop_reason: str) -> None:
    assert _anthropic(stop_reason, {"type": "text", "text": ""}).refusal is not None


@pytest.mark.parametrize("stop_reason", ["refusal", "model_context_window_exceeded"])
def test_what_a_model_wrote_before_it_stopped_is_an_answer(stop_reason: str) -> None:
    payload = {"content": [{"type": "text", "text": "Half of it"}], "stop_reason": stop_reason}

    assert Anthropic().decode(ModelRequest(CHAT, {}), payload).content == "Half of it"
