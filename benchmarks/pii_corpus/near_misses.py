# ruff: noqa: D102  the names say what each returns
"""Values that look like personal data from afar and are none."""

from __future__ import annotations

from base64 import b64encode
from random import Random
from string import ascii_uppercase, digits
from typing import Final, TypeVar

from benchmarks.pii_corpus import checksums
from benchmarks.pii_corpus.values import HEX, Values

T = TypeVar("T")

_PACKAGES: Final = ("react", "lodash", "@angular/core", "numpy", "@types/node", "left-pad", "vite", "@babel/runtime")
_HANDLES: Final = ("@anna_k", "@duckdb", "@m.rossi", "@everyone", "@here", "@TheRealTom42", "@dev-team")
_DECORATORS: Final = (
    "@property",
    "@dataclass",
    "@app.route('/v1')",
    "@pytest.mark.slow",
    "@Override",
    "@media (max-width: 600px)",
)


class NearMisses:
    """Makes near misses. Each public method's name is that of a slot in a template.

    Args:
        random: Where everything that is left to chance comes from.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._values = Values(random)

    def name(self) -> str:
        return self._one("Anna Keller", "Jonas Moreau", "Priya Patel", "Tom Okafor", "Li Wang", "田中", "Sofia Rossi")

    def clock(self) -> str:
        return f"{self._random.randrange(24)}:{self._random.randrange(60):02d}"

    def number(self, count: int) -> str:
        """Return a number of as many digits."""
        return self._random.choice("123456789") + self._digits(count - 1)

    def order(self) -> str:
        return self._one(
            "#" + self._digits(8),
            "ORD-" + self._digits(9),
            self._digits(3) + "-" + self._digits(7) + "-" + self._digits(7),
            "SO" + self._digits(7),
        )

    def invoice(self) -> str:
        return self._one(
            f"INV-{self._year()}-{self._digits(5)}",
            f"RE{self._digits(8)}",
            f"{self._year()}/{self._digits(4)}",
            f"F-{self._digits(6)}",
        )

    def ups(self) -> str:
        return "1Z" + self._characters(ascii_uppercase + digits, 6) + self._digits(10)

    def parcel(self) -> str:
        return self._one(
            "00340434" + self._digits(12),
            "JJD0" + self._digits(17),
            "JVGL" + self._digits(10),
            "RR" + self._digits(9) + "DE",
            self._card_failing("9400"),
        )

    def version4(self) -> str:
        return ".".join(str(self._random.randrange(limit)) for limit in (4, 20, 40, 10))

    def version3(self) -> str:
        return f"{self._random.randrange(30)}.{self._random.randrange(40)}.{self._random.randrange(100)}"

    def build(self) -> str:
        return self._one(
            f"10.0.{self._random.randrange(17000, 26000)}.{self._random.randrange(1000, 5000)}",
            f"120.0.{self._random.randrange(5000, 7000)}.{self._random.randrange(300)}",
        )

    def sha1(self) -> str:
        return self._hex(40)

    def sha256(self) -> str:
        return self._hex(64)

    def md5(self) -> str:
        return self._hex(32)

    def short_sha(self) -> str:
        return self._hex(self._one(7, 8, 10, 12))

    def uuid(self) -> str:
        text = "-".join(self._hex(count) for count in (8, 4, 4, 4, 12))
        return self._one(text, text, text.upper())

    def date(self) -> str:
        y, m, d = self._year(), self._random.randrange(1, 13), self._random.randrange(1, 29)
        return self._one(
            f"{y}-{m:02d}-{d:02d}",
            f"{d:02d}.{m:02d}.{y}",
            f"{m:02d}/{d:02d}/{y}",
            f"{d}-{m}-{y}",
            f"{y}.{m:02d}.{d:02d}",
            f"{y}{m:02d}{d:02d}",
            f"{d:02d} {m:02d} {y}",
        )

    def stamp(self) -> str:
        y, m, d = self._year(), self._random.randrange(1, 13), self._random.randrange(1, 29)
        h, n, s = self._random.randrange(24), self._random.randrange(60), self._random.randrange(60)
        return self._one(
            f"{y}-{m:02d}-{d:02d}T{h:02d}:{n:02d}:{s:02d}Z",
            f"{y}-{m:02d}-{d:02d} {h:02d}:{n:02d}:{s:02d},{self._digits(3)}",
            f"{y}{m:02d}{d:02d}T{h:02d}{n:02d}{s:02d}",
            f"{y}-{m:02d}-{d:02d}T{h:02d}:{n:02d}:{s:02d}.{self._digits(6)}+02:00",
            f"{y}{m:02d}{d:02d}{h:02d}{n:02d}{s:02d}",
            f"{d:02d}/Mar/{y}:{h:02d}:{n:02d}:{s:02d} +0000",
        )

    def epoch(self) -> str:
        return self._one(
            "17" + self._digits(8),
            "17" + self._digits(11),
            "17" + self._digits(14),
            f"17{self._digits(8)}.{self._digits(3)}",
        )

    def isbn(self) -> str:
        return self._one(
            f"978-{self._digits(1)}-{self._digits(3)}-{self._digits(5)}-{self._digits(1)}",
            "978" + self._digits(10),
            f"{self._digits(1)}-{self._digits(4)}-{self._digits(4)}-X",
        )

    def ean(self) -> str:
        return self._one("40", "50", "73", "87") + self._digits(11)

    def iban_failing(self) -> str:
        iban = self._values.iban()
        return iban[:2] + f"{(int(iban[2:4]) + self._random.randrange(1, 90)) % 97:02d}" + iban[4:]

    def card_failing(self) -> str:
        return self._one("-", " ", "").join(self._fours(self._card_failing(self._one("4", "51", "6011", "37"))))

    def nine(self) -> str:
        return self._random.choice("123456789") + self._digits(8)

    def ten(self) -> str:
        return self._random.choice("123456789") + self._digits(9)

    def handle(self) -> str:
        return self._one(*_HANDLES)

    def decorator(self) -> str:
        return self._one(*_DECORATORS)

    def package(self) -> str:
        return f"{self._one(*_PACKAGES)}@{self._one('', '^', '~')}{self.version3()}"

    def pin(self) -> str:
        return self._one(
            f"pandas=={self.version3()}",
            f"torch>={self.version3()},<3",
            f"node:{self.version3()}-alpine",
            f"requests~={self.version3()}",
            f"python-3.{self.version3()}",
        )

    def user_at_host(self) -> str:
        return self._one("root@localhost", "deploy@web01", "postgres@db-replica", "pi@raspberrypi", "admin@nas")

    def image(self) -> str:
        return self._one("logo@2x.png", "icon@3x.webp", "hero@2x.jpg", "sprite@1.5x.png")

    def git(self) -> str:
        return self._one(
            "git@github.com:acme/tools.git", "git@gitlab.com:data/etl.git", "git@git.example.com:ops/infra.git"
        )

    def price(self) -> str:
        return self._one(
            f"€{self._digits(2)}1,{self._digits(2)}",
            f"${self._random.randrange(1, 999)},{self._digits(3)}.{self._digits(2)}",
            f"1.{self._digits(3)}.{self._digits(3)},00 EUR",
            f"¥{self._digits(2)}1,000",
        )

    def coordinates(self) -> str:
        return self._one(
            f"{self._random.randrange(10, 60)}.{self._digits(6)}, {self._random.randrange(10, 99)}.{self._digits(6)}",
            f"{self._random.randrange(10, 60)}°{self._random.randrange(60)}'12.4\"N 8°32'01.9\"E",
            f"-33.{self._digits(4)},151.{self._digits(4)}",
        )

    def hex_pairs(self) -> str:
        count = self._one(3, 4, 5, 7, 16, 20, 32)
        return ":".join(self._hex(2) for _ in range(count))

    def fingerprint(self) -> str:
        return ":".join(self._hex(2) for _ in range(20)).upper()

    def hex_short(self) -> str:
        return "0x" + self._one(self._hex(4), self._hex(8), self._hex(16).upper(), self._hex(2))

    def transaction(self) -> str:
        return "0x" + self._hex(64)

    def blob(self) -> str:
        return b64encode(self._random.randbytes(self._one(24, 33, 60))).decode()

    def amounts(self) -> str:
        return self._one(
            "100-200-3000", "10-20-30", "200-400-8000", "1-2-3-4-5", "500-1000-2500", "30/60/90", "8-16-32-64"
        )

    def zip4(self) -> str:
        return self._one("94107-", "10001-", "60614-") + self._digits(4)

    def cas(self) -> str:
        return self._one("7732-18-5", "64-17-5", "58-08-2", "50-78-2", "7647-14-5", "1333-74-0", "67-56-1")

    def css(self) -> str:
        return self._one("#" + self._hex(6), "#" + self._hex(3), "rgba(12, 34, 56, 0.5)", "#" + self._hex(8).upper())

    def model(self) -> str:
        return self._one(
            "gpt-4o-2024-08-06",
            "claude-3-5-sonnet-20241022",
            "gemini-1.5-pro-002",
            "llama-3.1-405b-instruct",
            "text-embedding-3-large",
            "mistral-large-2407",
            "o3-mini-2025-01-31",
        )

    def timecode(self) -> str:
        h, n, s, f = (self._random.randrange(limit) for limit in (24, 60, 60, 25))
        return self._one(
            f"{h:02d}:{n:02d}:{s:02d}:{f:02d}",
            f"{h:02d}:{n:02d}:{s:02d}.{self._digits(3)}",
            f"{h:02d}:{n:02d}-{h + 1:02d}:{n:02d}",
        )

    def sort_code(self) -> str:
        return f"{self._digits(2)}-{self._digits(2)}-{self._digits(2)}"

    def ratio(self) -> str:
        return self._one("16:9", "3:2:1", "1:1000", "50/50", "4-3-3", "21:9:4")

    def snowflake(self) -> str:
        return "1" + self._digits(18)

    def imei(self) -> str:
        body = "35" + self._digits(12)
        return body + checksums.luhn_digit(body)

    def vin(self) -> str:
        return "WVWZZZ1JZ" + self._characters("ABCDEFGHJKLMNPRSTUVWXYZ", 2) + self._digits(6)

    def doi(self) -> str:
        return f"10.{self._digits(4)}/s{self._digits(5)}-021-{self._digits(5)}-{self._digits(1)}"

    def wallet_failing(self) -> str:
        wallet = self._values.crypto(self._one("btc", "btc_script", "btc_segwit", "btc_taproot"))
        last = self._one(*(last for last in "qpzry9x8" if last != wallet[-1]))
        return wallet[:-1] + last if wallet.startswith("bc1") else self._base58_failing(wallet)

    def oid(self) -> str:
        return self._one("1.3.6.1.4.1.311.21.20", "2.16.840.1.101.3.4.2.1", "1.2.840.113549.1.1.11")

    def vat(self) -> str:
        return self._one(
            "DE" + self._digits(9),
            "ATU" + self._digits(8),
            "FR" + self._digits(11),
            "GB" + self._digits(9),
            "NL" + self._digits(9) + "B01",
        )

    def bic(self) -> str:
        return self._one("COBADEFFXXX", "NWBKGB2L", "BNPAFRPPXXX", "DEUTDEFF500", "UBSWCHZH80A")

    def arn(self) -> str:
        return f"arn:aws:iam::{self._digits(12)}:role/{self._one('etl', 'reader', 'deploy')}"

    def ticket(self) -> str:
        return self._one("JIRA-", "OPS-", "INC00", "SD-") + self._digits(5)

    def key_blank(self) -> str:
        return self._one(
            "sk-...",
            "YOUR_API_KEY",
            "ghp_" + "x" * 36,
            "<your-token>",
            "$OPENAI_API_KEY",
            "sk_test_...",
            "AKIAXXXXXXXXXXXXXXXX",
            "${{ secrets.TOKEN }}",
            "hf_***",
        )

    def url_plain(self) -> str:
        return self._one(
            "https://example.com:8443/a/b?x=1",
            "https://medium.com/@anna/notes-on-sql-2f1b",
            "http://localhost:8080/health",
            "https://www.npmjs.com/package/@types/node/v/20.1.0",
            "ssh://build-server:2222/var/log",
            "https://example.org/search?q=user:pass",
            "https://cdn.example.net/lib@4.2.1/dist/index.js",
            "postgresql://db.example.com:5432/sales",
            "redis://cache:6379/0",
        )

    def phone_masked(self) -> str:
        return self._one("+49 *** *** 12", "(***) ***-**67", "06 ** ** ** 78", "xxx-xxx-1234")

    def card_masked(self) -> str:
        return self._one("**** **** **** 4242", "xxxx-xxxx-xxxx-1881", "•••• 0005", "411111******1111")

    def part(self) -> str:
        return self._one(
            f"SKU-{self._digits(4)}-{self._characters(ascii_uppercase, 2)}",
            f"PN {self._digits(3)}-{self._digits(5)}-{self._digits(2)}",
            f"B0{self._characters(ascii_uppercase + digits, 8)}",
            f"{self._digits(6)}-{self._digits(3)}",
        )

    def section(self) -> str:
        return self._one("4.2.1.3", "12.1.0.2", "3.3.3.1", "2.10.4.7")

    def emoticon(self) -> str:
        return self._one("@}->--", ":@", "8-)", "<@U02ABCDEF>", "¯\\_(ツ)_/¯", "(@_@)")

    def _card_failing(self, start: str) -> str:
        body = start + self._digits(15 - len(start))
        return body + str((int(checksums.luhn_digit(body)) + self._random.randrange(1, 10)) % 10)

    def _base58_failing(self, wallet: str) -> str:
        middle = len(wallet) // 2
        return wallet[:middle] + ("2" if wallet[middle] != "2" else "3") + wallet[middle + 1 :]

    def _fours(self, text: str) -> list[str]:
        return [text[start : start + 4] for start in range(0, len(text), 4)]

    def _year(self) -> int:
        return self._random.randrange(2015, 2027)

    def _digits(self, count: int) -> str:
        return self._characters(digits, count)

    def _hex(self, count: int) -> str:
        return self._characters(HEX, count)

    def _characters(self, alphabet: str, count: int) -> str:
        return "".join(self._random.choices(alphabet, k=count))

    def _one(self, *choices: T) -> T:
        return self._random.choice(choices)
