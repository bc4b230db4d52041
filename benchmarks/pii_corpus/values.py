"""Made-up values of every kind that the corpus labels, valid where there is something to be valid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from string import ascii_letters, ascii_uppercase, digits
from typing import Final

from benchmarks.pii_corpus import checksums
from benchmarks.pii_corpus.formats import CARDS, IBANS, KEYS, LICENCES, PASSPORTS, PHONES

HEX: Final = "0123456789abcdef"
BASE32: Final = ascii_uppercase + "234567"
FIRST_NAMES: Final = (
    "anna", "jonas", "maria", "li", "pierre", "sofia", "tom", "yuki", "fatima", "oskar", "priya", "lucas", "ewa",
    "noah", "chiara", "björn",
)  # fmt: skip
LAST_NAMES: Final = (
    "keller", "moreau", "smith", "tanaka", "rossi", "novak", "andersson", "okafor", "garcia", "patel", "dubois",
    "wang", "jansen", "silva",
)  # fmt: skip
DOMAINS: Final = (
    "example.com", "example.org", "mail.example.net", "nordwind-logistik.de", "atelier-lumiere.fr",
    "brightfoxlabs.io", "casaverdemadrid.es",
    "hoshino-works.co.jp", "tallgrass.studio", "kleinbrotbaecker.at", "sub.dept.riverbanktrust.co.uk", "gmail.com",
    "outlook.com", "qq.com",
    "proton.me", "uni-weststadt.edu", "openbee.ai", "rowanandpike.com.au", "ventobianco.it", "polarkjeks.no",
    "x-y-z.museum", "team42.dev",
)  # fmt: skip

_ALPHABETS: Final[Mapping[str, str]] = {
    "s": ascii_letters + digits,
    "L": ascii_letters,
    "d": digits,
    "x": HEX,
    "B": BASE32,
}
_CARD_GROUPS: Final[Mapping[int, tuple[int, ...]]] = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}


class Values:
    """Makes values. A method's name is that of a slot in a template, its argument what the slot adds after a colon.

    Args:
        random: Where everything that is left to chance comes from.
    """

    def __init__(self, random: Random) -> None:
        self.random = random

    def characters(self, alphabet: str, count: int) -> str:
        """Return characters of an alphabet."""
        return "".join(self.random.choices(alphabet, k=count))

    def pattern(self, pattern: str) -> str:
        """Return a pattern of `formats` filled in."""
        filled = []
        for escaped, character in re.findall(r"(\\?)(.)", pattern):
            alphabet = None if escaped else {"0": digits, "A": ascii_uppercase}.get(character)
            filled.append(self.random.choice(alphabet) if alphabet else character)
        return "".join(filled)

    def card(self, network: str = "") -> str:
        """Return a card number in one of the ways in which it is written."""
        number = self.card_number(network)
        separator = self.random.choice(("", " ", " ", "-"))
        return separator.join(_split(number, _CARD_GROUPS[len(number)]))

    def card_number(self, network: str = "") -> str:
        """Return the digits of a card number that passes the Luhn check."""
        start = self._one(CARDS, network)
        body = start[:4] + self.characters(digits, len(start) - 4)
        return body + checksums.luhn_digit(body)

    def email(self, domain: str = "") -> str:
        """Return an address."""
        first, last = self.random.choice(FIRST_NAMES[:-1]), self.random.choice(LAST_NAMES)
        number = self.random.randrange(1, 100)
        local = self.random.choice(
            (
                f"{first}.{last}", f"{first}", f"{first[0]}{last}", f"{first}_{last}{number}",
                f"{first}+invoices{number}", f"{last}-{first}",
                f"{first}.{last[0]}.{last}", f"info{number}", f"{first.title()}.{last.title()}", f"{number}{last}",
                f"o'{last}", f"{last}.{number}",
            )
        )  # fmt: skip
        return f"{local}@{domain or self.random.choice(DOMAINS)}"

    def phone(self, country: str = "") -> str:
        """Return a phone number in a national or international form."""
        return self.pattern(self._one(PHONES, country))

    def phone_abroad(self, country: str = "") -> str:
        """Return a phone number with its country code."""
        countries = [country] if country else list(PHONES)
        forms = [form for name in countries for form in PHONES[name] if form.startswith("+")]
        return self.pattern(self.random.choice(forms))

    def phone_us(self) -> str:
        """Return a US number as everybody there would recognise it: with separators."""
        return self.pattern(self.random.choice([form for form in PHONES["us"] if not form.startswith("+")]))

    def ssn(self) -> str:
        """Return a social security number of an area that was given out."""
        area = self.random.choice([*range(1, 666), *range(667, 900)])
        return f"{area:03d}-{self.random.randrange(1, 100):02d}-{self.random.randrange(1, 10000):04d}"

    def ssn_plain(self) -> str:
        """Return one without dashes, or with blanks."""
        return self.ssn().replace("-", self.random.choice(("", " ")))

    def bank(self) -> str:
        """Return the number of a US bank account."""
        return self.random.choice("123456789") + self.characters(
            digits, self.random.choice((7, 8, 9, 9, 10, 11, 11, 13))
        )

    def routing(self) -> str:
        """Return a US routing number."""
        return checksums.routing_number(
            self.random.choice(("0210", "1210", "0311", "0610", "3222")) + self.characters(digits, 4)
        )

    def iban(self, country: str = "") -> str:
        """Return an IBAN, together or in groups of four."""
        number = self.iban_number(country)
        return number if self.random.random() < 0.4 else " ".join(_split(number, (4,) * (len(number) // 4 + 1)))

    def iban_number(self, country: str = "") -> str:
        """Return an IBAN without blanks."""
        chosen = country or self.random.choice([*IBANS, "DE", "FR", "GB", "ES", "NL", "AT", "CH", "IT"])
        return checksums.iban(chosen, self.pattern(IBANS[chosen]))

    def ip(self) -> str:
        """Return an address, of version 4 mostly."""
        return self.ip4() if self.random.random() < 0.7 else self.ip6()

    def ip4(self) -> str:
        """Return an IPv4 address."""
        first = self.random.choice((10, 172, 192, 203, 198, 84, 91, 8, 127, 52, 185))
        second = {10: 0, 172: 16, 192: 168, 198: 51, 203: 0, 127: 0}.get(first, self.random.randrange(256))
        third, last = self.random.randrange(256), self.random.randrange(1, 255)
        return f"{first}.{second}.{third}.{last}"

    def ip6(self) -> str:
        """Return an IPv6 address, in full or shortened."""
        group = self.random.choice(("2001:db8", "fe80", "2a02:8071", "fd12:3456"))
        tail = [f"{self.random.randrange(1, 65536):x}" for _ in range(8 - group.count(":") - 1)]
        full = ":".join([group, *tail])
        short = f"{group}::{':'.join(tail[-self.random.randrange(1, 4) :])}"
        return self.random.choice((full, short, full.upper(), short))

    def passport(self, country: str = "") -> str:
        """Return the number of a passport."""
        return self.pattern(self._one(PASSPORTS, country))

    def licence(self, country: str = "") -> str:
        """Return the number of a driving licence."""
        return self.pattern(self._one(LICENCES, country))

    def mac(self) -> str:
        """Return a hardware address in one of the three ways in which it is written."""
        octets = [f"{self.random.randrange(256):02x}" for _ in range(6)]
        octets[0] = self.random.choice(("3c", "00", "a4", "f0", "5e"))
        text = self.random.choice(
            (":".join(octets), ":".join(octets), "-".join(octets), ".".join(_split("".join(octets), (4, 4, 4))))
        )
        return text.upper() if self.random.random() < 0.4 else text

    def crypto(self, coin: str = "") -> str:
        """Return the address of a wallet."""
        return self._call(self._wallets(), coin)

    def url(self) -> str:
        """Return a URL with a user and a password."""
        name, secret = self.random.choice(FIRST_NAMES[:-1]), self.characters(ascii_letters + digits + "!$-_.", 12)
        host = self.random.choice(("db.internal", "db-3.example.com", "cache", "mq.prod.example.net", "localhost"))
        return self.random.choice(
            (
                f"https://{name}:{secret}@{host}/reports", f"postgresql://{name}:{secret}@{host}:5432/sales",
                f"mysql://root:{secret}@{host}/shop",
                f"mongodb+srv://{name}:{secret}@cluster0.example.net/app?retryWrites=true",
                f"redis://:{secret}@{host}:6379/0",
                f"amqp://{name}:{secret}@{host}:5672/%2f", f"ftp://{name}:{secret}@files.example.org/in/",
                f"http://{name}:{secret}@{host}:8080",
                f"https://oauth2:{secret}@git.example.com/team/repo.git",
                f"postgres://svc_{name}:{secret}@{host}/dwh?sslmode=require",
            )
        )  # fmt: skip

    def key(self, service: str = "") -> str:
        """Return an API key of a service."""
        template = self._one({name: (form,) for name, form in KEYS.items()}, service)
        return re.sub(r"\{(.)(\d+)\}", lambda match: self.characters(_ALPHABETS[match[1]], int(match[2])), template)

    def jwt(self) -> str:
        """Return a JSON Web Token."""
        payload = self.characters(ascii_letters + digits, 40)
        signature = self.characters(ascii_letters + digits + "-_", 43)
        return f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOi{payload}.{signature}"

    def _wallets(self) -> dict[str, Callable[[], str]]:
        def hashed() -> bytes:
            return self.random.randbytes(20)

        return {
            "btc": lambda: checksums.base58_check(b"\0" + hashed()),
            "btc_script": lambda: checksums.base58_check(b"\5" + hashed()),
            "btc_segwit": lambda: checksums.segwit("bc", 0, hashed()),
            "btc_script_segwit": lambda: checksums.segwit("bc", 0, self.random.randbytes(32)),
            "btc_taproot": lambda: checksums.segwit("bc", 1, self.random.randbytes(32)),
            "eth": lambda: f"0x{hashed().hex()}",
            "eth_pool": lambda: f"0x{hashed().hex()}",
            "eth_capitals": lambda: f"0x{hashed().hex().upper()}",
            "ltc": lambda: checksums.base58_check(b"\x30" + hashed()),
            "ltc_segwit": lambda: checksums.segwit("ltc", 0, hashed()),
            "doge": lambda: checksums.base58_check(b"\x1e" + hashed()),
            "tron": lambda: checksums.base58_check(b"\x41" + hashed()),
        }

    def _call(self, makers: Mapping[str, Callable[[], str]], name: str) -> str:
        return makers[name or self.random.choice(list(makers))]()

    def _one(self, forms: Mapping[str, Sequence[str]], name: str) -> str:
        """Return one form of a name, all names being as likely where none is given."""
        return self.random.choice(forms[name or self.random.choice(list(forms))])


def _split(text: str, sizes: Sequence[int]) -> list[str]:
    pieces, done = [], 0
    for size in sizes:
        pieces.append(text[done : done + size])
        done += size
    return [piece for piece in pieces if piece]
