"""The table of what the guardrail finds by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fleming_sql.guardrails.pii import context, forms, groups, keys, papers, phones
from fleming_sql.guardrails.pii.numbers import find_accounts, find_cards, find_ssns
from fleming_sql.guardrails.pii.phones import find_phones

Check = Callable[[bytes, int, int], tuple[int, int] | None]
"""Returns where in `data` the find stands that a pattern has pointed at, or None where there is none."""
Search = Callable[[bytes, int, int, bool], Sequence[tuple[int, int]]]
"""Returns all finds in the stretch that a pattern has pointed at, told whether a context word is in the text."""


class Rule(NamedTuple):
    """One form of one entity."""

    entity: str
    pattern: str
    """RE2: where it may stand."""
    check: Check | None = None
    search: Search | None = None
    words: context.Words = context.Words()
    """One of them has to stand near, where there are any."""
    needs_words: bool = True
    """Whether nothing is found without one of them."""


class Entity(NamedTuple):
    """One row of `fleming.built_in_pii_entities`."""

    name: str
    description: str
    validator: str | None
    words: tuple[str, ...] = ()


_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})"
_EMAIL: Final = rf"[A-Za-z0-9_][A-Za-z0-9._%+'&~!#-]*\"?@(?:{_HOST}|\[\d{{1,3}}(?:\.\d{{1,3}}){{3}}\])"
_AT: Final = r" {0,2}[\[({] ?at ?[\])}] {0,2}"
_DOT: Final = r"(?:\.| {0,2}[\[({] ?(?:dot|punkt|point|punto) ?[\])}] {0,2})"
# No longest lengths where none is needed: each is a count that multiplies the states of the automaton.
_SPELT_EMAIL: Final = rf"(?i)[a-z0-9][a-z0-9._+-]*{_AT}(?:[a-z0-9-]+{_DOT}){{1,6}}[a-z]{{2,24}}"
_URL: Final = r"""(?i)\b[a-z][a-z0-9+.-]+://[^\s/?#@:"'<>\x00]*:[^\s/?#"'<>\x00]+@[^\s"'<>\x00]+"""
_IBAN: Final = r"(?:\b|_)[A-Za-z]*[A-Za-z]{2}\d{2}(?:[ .,/_\t\r\n-]{0,2}[A-Za-z0-9]){4}"
_WALLET: Final = (
    r"\b(?:[13DLMTmn2][1-9A-HJ-NP-Za-km-z]{25,34}|(?i:bc1|tb1|ltc1)[02-9AC-HJ-NP-Zac-hj-np-z]{11,71}"
    r"|0[xX][0-9a-fA-F]{40})\b"
)
_MAC: Final = (
    r"(?i)\b(?:[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5}"
    r"|[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4})\b"
)
_GROUP: Final = "[0-9A-Fa-f]{1,4}"
_IPV6: Final = rf"(?:{_GROUP}:){{7}}{_GROUP}|(?:{_GROUP}:){{0,6}}(?:{_GROUP})?::[0-9A-Fa-f:.]*"
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"

STRONG: Final[tuple[Rule, ...]] = (
    Rule("API_KEY", keys.PATTERN, check=keys.check_key),
    Rule("URL_CREDENTIALS", _URL, check=forms.check_url),
    Rule("IBAN_CODE", _IBAN, check=forms.check_iban),
    Rule("CRYPTO", _WALLET, check=forms.check_wallet),
    Rule("CREDIT_CARD", phones.RUN, search=find_cards),
    Rule("CREDIT_CARD", groups.CARDS, search=groups.find_cards),
)  # fmt: skip
"""What cannot be mistaken: by a check digit, or by what its maker put into it. The first wins over those after it."""

WEAK: Final[tuple[Rule, ...]] = (
    Rule("EMAIL_ADDRESS", _EMAIL, check=forms.check_email),
    Rule("EMAIL_ADDRESS", _SPELT_EMAIL),
    Rule("MAC_ADDRESS", _MAC, check=forms.check_mac),
    Rule("IP_ADDRESS", _IPV6, check=forms.check_ipv6),
    Rule("IP_ADDRESS", rf"\b{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}\b", check=forms.check_ipv4),
    Rule("US_SSN", phones.RUN, search=find_ssns, words=context.SSN, needs_words=False),
    Rule("US_SSN", groups.SSNS, check=groups.check_ssn, words=context.SSN),
    Rule("PASSPORT", papers.PASSPORT_FORMS, check=papers.check_passport, words=context.PASSPORT),
    Rule("DRIVER_LICENSE", papers.LICENCE_FORMS, check=papers.check_licence, words=context.LICENCE),
    Rule("PHONE_NUMBER", phones.RUN, search=find_phones, words=context.PHONE, needs_words=False),
    Rule("US_BANK_NUMBER", phones.RUN, search=find_accounts, words=context.BANK),
)  # fmt: skip
"""What is told by its form, or by the words near it."""

ENTITIES: Final[tuple[Entity, ...]] = (
    Entity("API_KEY", "Keys and tokens of well-known services, JSON Web Tokens, private keys", None),
    Entity("CREDIT_CARD", "Numbers of payment cards, of an issuer's range and length, with their check digit", "luhn"),
    Entity("CRYPTO", "Addresses of wallets: Bitcoin and its kin with their checksums, Ethereum", "crypto_address"),
    Entity("DRIVER_LICENSE", "Numbers of driving licences of several countries", None, context.LICENCE),
    Entity("EMAIL_ADDRESS", "E-mail addresses", None),
    Entity(
        "IBAN_CODE", "International bank account numbers, of their country's length, with their check digits", "iban"
    ),
    Entity("IP_ADDRESS", "Addresses of IPv4 and IPv6", "ip_address"),
    Entity("MAC_ADDRESS", "Addresses of network interfaces", None),
    Entity("PASSPORT", "Numbers of passports of several countries", None, context.PASSPORT),
    Entity(
        "PHONE_NUMBER", "Phone numbers with a country's code, in the form of many countries, or with a word near", None
    ),
    Entity("URL_CREDENTIALS", "URLs with a user's name and password", None),
    Entity(
        "US_BANK_NUMBER",
        "Numbers of US bank accounts, and of banks with their check digit",
        "aba_routing",
        context.BANK,
    ),
    Entity("US_SSN", "US social security numbers with dashes, or with a word near", "us_ssn"),
)
"""What is found, by name."""
