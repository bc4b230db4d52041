"""Checks that a number passes when it is one: check digits, lengths, ranges that are given out.

Each takes what a pattern matched, with its blanks and dashes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from ipaddress import AddressValueError, IPv6Address
from types import MappingProxyType
from typing import Final

_NO_DIGITS: Final = bytes(code for code in range(256) if not 48 <= code < 58)
_NO_ALNUM: Final = re.compile(r"[^0-9A-Za-z]+")
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"\x00\x02\x04\x06\x08\x01\x03\x05\x07\x09")
_BASE36: Final = {character: str(int(character, 36)) for character in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_BASE58: Final = {
    digit: value for value, digit in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")
}
_BASE58_VERSIONS: Final = frozenset({0x00, 0x05, 0x1E, 0x16, 0x30, 0x32, 0x41, 0x6F, 0xC4})
"""Bitcoin, Dogecoin, Litecoin, Tron and Bitcoin's test network (chainparams.cpp of their reference programs)."""
_BECH32: Final = {digit: value for value, digit in enumerate("qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_BECH32_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32_SUMS: Final = frozenset({1, 0x2BC830A3})
"""Of bech32 (BIP 173) and of bech32m (BIP 350)."""

IBAN_LENGTHS: Final[Mapping[str, int]] = MappingProxyType(
    {
        country: length
        for length, countries in {
            15: "NO", 16: "BE", 18: "DK FI FO GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
            21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
            24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
            28: "AL AZ BY CY DO GT HU LB NI PL SV HN", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC",
            32: "LC", 33: "RU",
        }.items()
        for country in countries.split()
    }
)  # fmt: skip
"""Characters of an IBAN by country (SWIFT, IBAN Registry)."""
_ISSUERS: Final = re.compile(
    rb"""4(?:\d{12}|\d{15}|\d{18})                                          # Visa
    |   (?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}   # Mastercard
    |   3[47]\d{13}                                                        # American Express
    |   (?:6011|64[4-9]\d|65\d\d)\d{12,15}                                 # Discover
    |   35(?:2[89]|[3-8]\d)\d{12,15}                                       # JCB
    |   3(?:0[0-59]|[689]\d)\d{11,16}                                      # Diners Club
    |   (?:62\d\d|81[0-7]\d)\d{12,15}                                      # UnionPay
    |   (?:50(?:18|20|38)|5893|6304|6759|676[1-3])\d{9,15}                 # Maestro
    |   (?:508\d|60\d\d|82\d\d|353\d|356\d)\d{12}                          # RuPay
    |   220[0-4]\d{12,15}                                                  # Mir
    |   (?:506099|5061\d\d|6500\d\d)\d{10,13}                              # Verve
    |   9792\d{12}                                                         # Troy
    |   (?:4011|4312|4389|4514|4573|5041|5066|5067|509\d|6277|6362|6363|6062)\d{12}  # Elo, Hipercard
    """,
    re.VERBOSE,
)
"""Ranges of issuers with the lengths of their numbers (ISO/IEC 7812; the networks' own tables)."""


def passes_luhn(text: str) -> bool:
    """Return whether the digits in a text end in their Luhn check digit (ISO/IEC 7812-1, annex B).

    Example:
        >>> passes_luhn("4111 1111-1111 1111")
        True
    """
    return _has_luhn_digit(_digits(text))


def _digits(text: str) -> bytes:
    return text.encode("ascii", "ignore").translate(None, _NO_DIGITS)


def _has_luhn_digit(digits: bytes) -> bool:
    if len(digits) < 2:
        return False
    plain, doubled = digits[::-2], digits[-2::-2]
    return (sum(plain) - 48 * len(plain) + sum(doubled.translate(_DOUBLED))) % 10 == 0


def is_card(text: str) -> bool:
    """Return whether a number is that of a payment card: an issuer's, of the right length, with the check digit."""
    digits = _digits(text)
    return _ISSUERS.fullmatch(digits) is not None and _has_luhn_digit(digits)


def is_iban(text: str) -> bool:
    """Return whether a text is an IBAN: of its country's length, and 1 modulo 97 (ISO 13616-1).

    Example:
        >>> is_iban("GB82 WEST 1234 5698 7654 32")
        True
    """
    iban = _NO_ALNUM.sub("", text).upper()
    if len(iban) != IBAN_LENGTHS.get(iban[:2]) or not iban[2:4].isdigit():
        return False
    return int("".join(map(_BASE36.__getitem__, iban[4:] + iban[:4]))) % 97 == 1


def is_routing_number(text: str) -> bool:
    """Return whether nine digits are an ABA routing number: in a range given out, with the check digit."""
    digits = _digits(text).decode()
    if len(digits) != 9 or not (digits[:2] <= "12" or "21" <= digits[:2] <= "32" or "61" <= digits[:2] <= "72"):
        return digits[:2] == "80" and _aba_sum(digits) == 0 and len(digits) == 9
    return digits != "000000000" and _aba_sum(digits) == 0


def is_us_ssn(text: str) -> bool:
    """Return whether nine digits may be a social security number (SSA, POMS RM 10201.035): no area 000, 666 or 9xx."""
    digits = _digits(text)
    return (
        len(digits) == 9
        and digits[:3] not in (b"000", b"666")
        and digits[0] != 57
        and digits[3:5] != b"00"
        and digits[5:] != b"0000"
    )


def is_ip_address(text: str) -> bool:
    """Return whether a text is an address of IPv4 or IPv6."""
    if ":" not in text:
        octets = text.split(".")
        return len(octets) == 4 and all(
            octet.isdecimal() and len(octet) < 4 and int(octet) < 256 and str(int(octet)) == octet for octet in octets
        )
    try:
        IPv6Address(text)
    except (AddressValueError, ValueError):
        return False
    return True


def is_crypto_address(text: str) -> bool:
    """Return whether a text is the address of a wallet: Base58Check or bech32 with the right sum, or Ethereum's."""
    if text[:2] in ("0x", "0X"):
        return len(text) == 42 and len(set(text[2:].lower())) > 3
    return _is_bech32(text) or _is_base58_check(text)


def _aba_sum(digits: str) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, (3, 7, 1) * 3, strict=True)) % 10


def _is_base58_check(text: str) -> bool:
    number = 0
    for character in text:
        value = _BASE58.get(character)
        if value is None:
            return False
        number = number * 58 + value
    if number >= 1 << 200:
        return False
    raw = number.to_bytes(25, "big")
    return raw[0] in _BASE58_VERSIONS and sha256(sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


def _is_bech32(text: str) -> bool:
    human, _, data = text.lower().rpartition("1")
    if human not in ("bc", "tb", "ltc") or len(data) < 6 or text not in (text.lower(), text.upper()):
        return False
    values = [ord(character) >> 5 for character in human] + [0] + [ord(character) & 31 for character in human]
    for character in data:
        value = _BECH32.get(character)
        if value is None:
            return False
        values.append(value)
    return _bech32_sum(values) in _BECH32_SUMS


def _bech32_sum(values: list[int]) -> int:
    total = 1
    for value in values:
        top = total >> 25
        total = (total & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_BECH32_GENERATOR):
            if top >> bit & 1:
                total ^= generator
    return total


VALIDATORS: Final[Mapping[str, Callable[[str], bool]]] = MappingProxyType(
    {
        "aba_routing": is_routing_number,
        "crypto_address": is_crypto_address,
        "iban": is_iban,
        "ip_address": is_ip_address,
        "luhn": passes_luhn,
        "us_ssn": is_us_ssn,
    }
)
"""Those that a row of `fleming.pii_entities` may name."""
