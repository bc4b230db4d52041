"""The checks that card numbers, IBANs, wallets and routing numbers carry, to make values that pass them."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_CONSTANT: Final = 1
_BECH32M_CONSTANT: Final = 0x2BC830A3


def luhn_digit(digits: str) -> str:
    """Return the digit that makes a number pass the Luhn check (ISO/IEC 7812-1, annex B).

    Example:
        >>> luhn_digit("411111111111111")
        '1'
    """
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def iban(country: str, bban: str) -> str:
    """Return the IBAN of an account (ISO 13616: the check digits make the number 1 modulo 97).

    Example:
        >>> iban("DE", "370400440532013000")
        'DE89370400440532013000'
    """
    digits = "".join(str(int(character, 36)) for character in f"{bban}{country}00")
    return f"{country}{98 - int(digits) % 97:02d}{bban}"


def routing_number(first_eight: str) -> str:
    """Return a US routing number with its check digit (weights 3, 7, 1 modulo 10)."""
    total = sum(int(digit) * weight for digit, weight in zip(first_eight, (3, 7, 1) * 3, strict=False))
    return f"{first_eight}{-total % 10}"


def base58_check(payload: bytes) -> str:
    """Return a Base58Check address: that of Bitcoin, Litecoin, Dogecoin and Tron before segregated witness."""
    data = payload + sha256(sha256(payload).digest()).digest()[:4]
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = _BASE58[rest] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + text


def segwit(prefix: str, version: int, program: bytes) -> str:
    """Return a segregated witness address: Bech32 for version 0 (BIP 173), Bech32m for later ones (BIP 350)."""
    bits = "".join(f"{byte:08b}" for byte in program)
    bits += "0" * (-len(bits) % 5)
    values = [version, *(int(bits[start : start + 5], 2) for start in range(0, len(bits), 5))]
    constant = _BECH32_CONSTANT if version == 0 else _BECH32M_CONSTANT
    expanded = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    check = _polymod([*expanded, *values, 0, 0, 0, 0, 0, 0]) ^ constant
    values += [check >> 5 * (5 - position) & 31 for position in range(6)]
    return f"{prefix}1{''.join(_BECH32[value] for value in values)}"


def _polymod(values: list[int]) -> int:
    generators = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for position, generator in enumerate(generators):
            check ^= generator if top >> position & 1 else 0
    return check
