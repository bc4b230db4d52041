"""Checks of what is told by its form: addresses of mail, of machines and of wallets, accounts, URLs."""

from __future__ import annotations

import re
from typing import Final

from fleming_sql.guardrails.pii.context import VERSION, is_near, listed
from fleming_sql.guardrails.pii.edges import DIGITS, WORD, at
from fleming_sql.guardrails.pii.validators import IBAN_LENGTHS, is_crypto_address, is_iban, is_ip_address

Place = tuple[int, int] | None

_FILES: Final = frozenset(
    listed(
        "png, jpg, jpeg, gif, svg, webp, bmp, ico, js, mjs, jsx, ts, tsx, css, scss, html, htm, json, yaml, yml, xml, "
        "csv, txt, pdf, exe, dll, so, lock, toml, gz, tgz, whl, jar, mp3, mp4, wav"
    )
)
"""Endings of files that are no top-level domain (IANA, Root Zone Database; `zip` and `mov` are)."""
_LONGEST_LOCAL: Final = 64
"""Characters before the at sign (RFC 5321, section 4.5.3.1.1)."""
_BREAK: Final = re.compile(rb"[\r\n\0@]")
_IBANS: Final = {
    length: re.compile(rb"[A-Za-z]{2}[0-9]{2}(?:[ \-.]{0,2}[A-Za-z0-9]){%d}(?![A-Za-z0-9])" % (length - 4))
    for length in set(IBAN_LENGTHS.values())
}
_GLUED_IBANS: Final = {
    length: re.compile(rb"[A-Za-z]{2}[0-9]{2}[A-Za-z0-9]{%d}(?![A-Za-z]{0,20}[0-9])" % (length - 4))
    for length in set(IBAN_LENGTHS.values())
}
"""With letters right after it."""
_LOOSE_IBANS: Final = {
    length: re.compile(rb"[A-Z]{2}[0-9]{2}(?:[ .,/_\t\r\n\-]{0,2}[A-Z0-9]){%d}(?![A-Za-z0-9])" % (length - 4))
    for length in set(IBAN_LENGTHS.values())
}
"""On several lines, or with marks that stand in a list as well."""
_BETWEEN: Final = re.compile(rb"[^A-Z0-9]+")
_RANGE: Final = re.compile(rb"-[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9.])")
_RANGE_START: Final = re.compile(rb"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}-\Z")
_PAIRS: Final = re.compile(rb"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){7}")
"""Of a fingerprint or a serial number: an address has more digits than two in some group."""
_LETTER: Final = re.compile(rb"[A-Fa-f]")
_HARDWARE: Final = listed("mac*, *ethernet*, *wlan*, *wifi*, *physical*, hw, *hardware*, *bluetooth*, ether")
_VARIABLE: Final = re.compile(rb"[{<\[]|\$[{(]|\$[A-Z_]+$|%[({]")
"""What stands for a password in a template."""


def check_email(data: bytes, start: int, end: int) -> Place:
    """Return the place of an e-mail address; None for names of files, of remotes in git and of users in URLs."""
    if data[max(0, start - 3) : start] == b"://" and data[max(0, start - 9) : start - 3].lower() != b"mailto":
        return None
    host = data.rfind(b"@", start, end) + 1
    ending = data[data.rfind(b".", start, end) + 1 : end].lower().decode()
    # Somalia's domain is also the ending of a library, which has a version before it.
    if (ending in _FILES and (ending != "so" or data[host] in DIGITS)) or b".." in data[start:end]:
        return None
    if data.startswith(b"git@", start) and at(data, end) == 58 and at(data, end + 1) not in b" \t\r\n\0":
        return None
    if data[host - 2] == 34:
        quote = data.rfind(b'"', max(0, start - _LONGEST_LOCAL), start)
        start = quote if quote >= 0 and not _BREAK.search(data, quote, start) else start
    return start, end


def check_iban(data: bytes, start: int, end: int) -> Place:
    """Return the place of the IBAN that begins at `start`."""
    while at(data, start + 2) not in DIGITS:  # what stands before the country
        start += 1
    length = IBAN_LENGTHS.get(data[start : start + 2].decode().upper())
    if not length:
        return None
    match = (
        _IBANS[length].match(data, start) or _loose_iban(length, data, start) or _GLUED_IBANS[length].match(data, start)
    )
    return match.span() if match and is_iban(match[0].decode()) else None


def _loose_iban(length: int, data: bytes, start: int) -> re.Match[bytes] | None:
    """Return what may be an IBAN in capital letters with the same between all of its groups."""
    match = _LOOSE_IBANS[length].match(data, start)
    return match if match and len({mark.strip() for mark in _BETWEEN.findall(match[0])}) == 1 else None


def check_ipv4(data: bytes, start: int, end: int) -> Place:
    """Return the place of an IPv4 address that is not the number of a version, a chapter or an object."""
    before, after = at(data, start - 1), at(data, end)
    if before in b"._" or after == 95 or (before == 61 and at(data, start - 2) in b"=~<>"):
        return None
    if before == 45 and not _RANGE_START.search(data[max(0, start - 17) : start]):
        return None
    if after in b".-" and at(data, end + 1) in DIGITS and not _RANGE.match(data, end):
        return None
    octets = [int(octet) for octet in data[start:end].split(b".")]
    if max(octets) >= 32 or len(set(octets)) == 1:
        return None if is_near(VERSION, data, start, end, 14, 0) else (start, end)
    # Small numbers alone are more often a version's or a chapter's.
    if is_near(VERSION, data, start, end, 40, 0):
        return None
    is_network = octets[0] == 10 or before in b"/@" or is_near(_NETWORK, data, start, end, 40, 20)
    return (start, end) if is_network else None


_NETWORK: Final = listed(
    "ip, ips, ipv4, *addr*, *adresse*, *address*, indirizzo, direccion, host*, server*, dns, ping*, connect*, ssh, "
    "gateway, subnet*, peer*, client*, remote*, router*, from, proxy, firewall, nameserver*, http, range, listen*"
)


def check_ipv6(data: bytes, start: int, end: int) -> Place:
    """Return the place of an IPv6 address; `a::b` is a name in C++ as well, so a short one needs a digit."""
    while end > start and data[end - 1] in b".:" and data[end - 2 : end] != b"::":
        end -= 1
    before, after = at(data, start - 1), at(data, end)
    if before in WORD or before in b":.-" or after in WORD or (after == 58 and at(data, end + 1) in WORD):
        return None
    text = data[start:end]
    if text == b"::1":
        return start, end
    if len(text) < 6 or _PAIRS.fullmatch(text) or not any(byte in DIGITS for byte in text):
        return None
    return (start, end) if is_ip_address(text.decode()) else None


def check_mac(data: bytes, start: int, end: int) -> Place:
    """Return the place of a MAC address that is not a piece of a longer chain of hexadecimal numbers."""
    before, after = at(data, start - 1), at(data, end)
    if before in b":-._" or after == 95 or (after in b":-" and at(data, end + 1) in WORD):
        return None
    if data[start + 2] == 45 and not _LETTER.search(data, start, end) and not is_near(_HARDWARE, data, start, end):
        return None
    return start, end


def check_wallet(data: bytes, start: int, end: int) -> Place:
    """Return the place of a wallet's address whose sum is right."""
    return (start, end) if is_crypto_address(data[start:end].decode()) else None


def check_url(data: bytes, start: int, end: int) -> Place:
    """Return the place of a URL with a password; None for one in which a variable stands for it."""
    secret = data[start:end].partition(b"://")[2].rpartition(b"@")[0].partition(b":")[2]
    if _VARIABLE.match(secret) or not secret.strip(b"*xX."):
        return None
    while data[end - 1] in b".,;:!?)'":
        end -= 1
    return start, end
