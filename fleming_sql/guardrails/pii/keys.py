"""Keys and tokens of well-known services, by the prefixes that their makers gave them so that they can be found.

Sources: the services' own documentation of their formats, GitHub's and GitLab's lists of secrets that they scan for,
RFC 7468 (private keys) and RFC 7519 (JSON Web Tokens).
"""

from __future__ import annotations

import re
from typing import Final

FORMS: Final[tuple[str, ...]] = (
    r"sk-ant-[a-z]{2,8}\d{2}-[\w-]{20,}",  # Anthropic
    r"sk-(?:proj|svcacct|admin|None|or-v1|lf)-[\w-]{20,}",  # OpenAI, OpenRouter, Langfuse
    r"sk-[A-Za-z0-9]{20,}",  # OpenAI, DeepSeek, and many after them
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}",  # GitHub
    r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas)-[\w-]{20,}",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{20,}",  # Slack
    r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{30,}",
    r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}",  # Stripe
    r"AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,}",  # Google
    r"SK[0-9a-f]{32}",  # Twilio
    r"SG\.[\w-]{16,}\.[\w-]{16,}",  # SendGrid
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[\w-]{50,}",
    r"(?:hf|api_org)_[A-Za-z0-9]{30,}",  # Hugging Face
    r"dapi[0-9a-f]{32}(?:-\d)?|dose[0-9a-f]{32}",  # Databricks
    r"eyJ[\w-]{10,}\.eyJ[\w-]{6,}\.[\w-]{10,}",  # JSON Web Tokens
    r"gsk_[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{60,}|pplx-[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{37}|fw_[A-Za-z0-9]{22,}",
    r"shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{32}",  # Shopify
    r"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean
    r"(?:bot)?\d{8,10}:AA[\w-]{32,}",  # Telegram
    r"key-[0-9a-f]{32}|[0-9a-f]{32}-us\d{1,2}",  # Mailgun, Mailchimp
    r"hv[sbr]\.[\w-]{24,}|dp\.(?:pt|st|ct|sa)\.[\w.-]{40,}",  # Vault, Doppler
    r"sq0(?:atp|csp)-[\w-]{22,}|EAAA[\w-]{60}",  # Square
    r"ATATT3[\w=-]{150,}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,}",  # Atlassian, Linear, Notion
    r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}|NRAK-[A-Z0-9]{27}|gl(?:sa|c)_[\w+/=]{32,}",  # Postman, New Relic, Grafana
    r"sbp_[0-9a-f]{40}|pscale_(?:tkn|pw)_[\w.-]{32,}|sntry[su]_[\w+/=.-]{40,}|AGE-SECRET-KEY-1[A-Z0-9]{58}",
    r"AccountKey=[A-Za-z0-9+/]{40,}={0,2}",  # Azure Storage
    r"(?:aws|AWS)_?(?:secret|SECRET)_?(?:access|ACCESS)?_?(?:key|KEY)[\"']?\s{0,3}[:=]\s{0,3}[\"']?[A-Za-z0-9/+]{40}",
    r"[Bb]earer [A-Za-z0-9_.~+/-]{24,}={0,2}",
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----\s*(?:[A-Za-z-]{4,20}: [^\n]{0,200}\n\s*){0,5}"
    r"(?:[A-Za-z0-9+/=]{16,}\s*)+(?:[A-Za-z0-9+/=]{0,64}\s*-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)?",
)
"""RE2, in the order in which they are tried."""
PATTERN: Final = r"(?:^|[^A-Za-z0-9_])(?:" + "|".join(FORMS) + ")"
_WORD: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_LABEL: Final = re.compile(
    rb"AccountKey=|bot(?=[0-9]{8})|[Bb]earer |(?i:aws_?secret_?(?:access)?_?key)[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
)


def check_key(data: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Return the place of a key without what stands before it; None for one that is made of a filler, as `sk-xxxx…`."""
    if data[start] not in _WORD and data[start : start + 5] != b"-----":
        start += 1
    label = _LABEL.match(data, start)
    body = data[label.end() if label else start : end]
    if body[:5] == b"-----":
        return start, end
    varied = body[-20:]
    # A random tail of 20 characters has more than 7 different ones, and is not made of letters of a word alone.
    if len(set(varied)) <= 7 or not any(48 <= byte < 58 or 65 <= byte < 91 for byte in body[3:]):
        return None
    return (label.end() if label else start), end
