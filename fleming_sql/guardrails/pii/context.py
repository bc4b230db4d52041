"""Words near which a number is what it would not be told to be by its form alone.

A star stands for any letters: `*telefon*` is in `Mobiltelefonnummer`. Words are written without accents, as texts are
read. Words of other scripts are stood for by a sign each, which `normalise` puts in their place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from types import MappingProxyType
from typing import Final

from fleming_sql.guardrails.pii.automata import Patterns


class Words(tuple[str, ...]):
    """Words of which one near a value says what it is."""

    @cached_property
    def automaton(self) -> Patterns:
        """Finds out whether one of them is in a text; built when it is first asked."""
        # A set of one: asked whether, not where, it needs half the time of a pattern.
        return Patterns([pattern(self)])


def listed(words: str) -> Words:
    """Return words that are written one after the other, with commas between them."""
    return Words(words.split(", "))


BEFORE: Final = 60
"""Characters before a value in which a context word may stand."""
AFTER: Final = 30
_LABEL: Final = 20
"""Characters before a value in which its label stands, if it has one."""
BLANK: Final = 0
"""The byte that stands where something has been found already; no context reaches across it."""

PHONE: Final = listed(
    "*phone*, tel, telf, tlf, tfn, fon, mob, *mobil*, cell*, call*, fax*, *telefon*, *telefoon*, telefax*, "
    "whatsapp, sms, *handy*, rufnummer*, ruf*, anruf*, durchwahl, movil, celular*, cellulare, portable, numero de "
    "tel*, chiama*, llamame*, llamanos*, llama al, llamar*, llame*, llamada*, appel*, bel, bellen, ring*, ligue*, "
    "dial*, text me, reach me, hotline, contact number, komorka, komorkowy, kontaktnummer, zadzwon*, dzwon*, "
    "puhelin*, ara, arayin*, cep, phones, telno, msisdn, gsm, sos"
)
CARD: Final = listed(
    "*card*, visa*, pan, cc, mastercard, *karte*, carte*, carta, tarjeta*, kaart*, karta*, kort*, payment*"
)
SSN: Final = listed(
    "ssn, *socialsecurity*, social security, soc sec, social, social_security, ss#, tax id, taxpayer, tin"
)
BANK: Final = listed(
    "bank*, account number*, account no, account_number, account_no, accountnumber, account num, account #, "
    "acct*, account, acc no, acc, checking, savings, routing*, aba, rtn, direct deposit, deposit*, wire, wired, "
    "ach"
)
PASSPORT: Final = listed(
    "*passport*, *reisepass*, passnummer, passnr, *pasaporte*, *passeport*, *passaporto*, *passaporte*, "
    "*paspoort*, *paszport*, ausweis*, pass no, pass nr, travel document"
)
LICENCE: Final = listed(
    "*driver*, driving*, *licen?e no, licen?e number, licen?e, *fuhrerschein*, *fuehrerschein*, *fahrerlaubnis*, "
    "permis*, *licencia*, carnet*, patente*, *rijbewijs*, prawo jazdy, korkort*, dl, dl#, dln, dlno, carteira de "
    "habilitacao, cnh, dvla, dmv"
)
NOT_PHONE: Final = listed(
    "order*, invoice*, inv, ref, refs, reference*, ticket*, track*, case, sku, serial*, part, model, item, batch, "
    "lot, isbn*, issn, ean, upc, gtin, imei, build, version, rev, transaction*, txn, policy, article*, artikel*, "
    "po, job, asin, *bestell*, auftrag*, rechnung*, sendung*, commande, facture, pedido*, factura, ordine, "
    "fattura, timestamp, epoch, unix, id, pid, uid, snowflake, account*, konto*, iban, ssn, routing, aba, cas, "
    "doi, vin, patent*, population, score, points, won, nonce, hash, hts, zamowien*, bestelling, parcel, "
    "shipment, ups, fedex, dhl, barcode, code*, esta, booking*, reserv*, replaced, range, coordinates, lat, lon, "
    "amount*, total, price, eur, usd, gbp"
)
VERSION: Final = listed(
    "version*, ver, v, release*, build*, firmware, section*, chapter*, clause*, kapitel*, abschnitt*, paragraph*, "
    "oid, update*, upgrade*, patch*, driver, sdk, revision, appendix, annex, article, chrome, figure, table, "
    "capitolo, chapitre, capitulo, seccion, sezione, versione, rev, spec"
)

MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "\x02": "电话 電話 手机 手機 携帯 拨打 致电 전화 휴대폰 телефон* "
        "мобильный звоните звонить τηλέφωνο τηλεφωνο τηλ. τηλ: κινητό κινητο "
        "هاتف جوال تلفون تليفون موبايل טלפון फ़ोन फोन मोबाइल โทร",
        "\x03": "护照 護照 旅券 パスポート 여권 паспорт* загранпаспорт διαβατήριο דרכון",
        "\x04": "驾照 驾驶证 駕照 運転免許 免許証 운전면허 водительск* права",
        "\x05": "账号 账户 銀行口座 口座番号 银行",
        "\x06": "版本 バージョン 버전 версия версии",
        "\x07": "订单 訂單 单号 编号 注文番号 주문 заказ*",
    }
)
"""Signs of ASCII that mean nothing in a text, and the words that they stand for.

Of phone, passport, licence, account, version and order.
"""
_SIGNS: Final[Mapping[Sequence[str], str]] = {
    PHONE: "\x02",
    PASSPORT: "\x03",
    LICENCE: "\x04",
    BANK: "\x05",
    VERSION: "\x06",
    NOT_PHONE: "\x07",
}


@cache
def marked_words() -> re.Pattern[str]:
    """Return the pattern of the words of other scripts, one group for each sign."""
    groups = (
        "|".join(re.escape(word.rstrip("*")) for word in sorted(words.split(), key=len, reverse=True))
        for words in MARKS.values()
    )
    return re.compile("|".join(f"({group})" for group in groups), re.IGNORECASE)


def mark(text: str) -> str:
    """Return a text of the same length with signs in the place of context words of other scripts."""
    signs = list(MARKS)
    return marked_words().sub(lambda word: signs[(word.lastindex or 1) - 1] * len(word[0]), text)


def pattern(words: Sequence[str]) -> str:
    """Return words as one RE2, in any case.

    Example:
        >>> pattern(["tel", "*phone*"])
        '(?i)(?:^|[^a-z])(?:tel|[a-z]*phone[a-z]*)(?:[^a-z]|$)'
    """
    written = "|".join(_written(word) for word in words)
    sign = _SIGNS.get(tuple(words))
    return f"(?i)(?:^|[^a-z])(?:{written})(?:[^a-z]|$)" + (f"|{sign}" if sign else "")


def window(data: bytes, start: int, end: int, before: int = BEFORE, after: int = AFTER) -> bytes:
    """Return what stands around a value, without it, as far as to something that has been found already."""
    left = data[max(0, start - before) : start]
    right = data[end : end + after]
    return left[left.rfind(BLANK) + 1 :] + b" " + right.partition(b"\0")[0]


def is_near(words: Words, data: bytes, start: int, end: int, before: int = BEFORE, after: int = AFTER) -> bool:
    """Return whether one of the words stands near a value."""
    return 0 in words.automaton.present(window(data, start, end, before, after))


def is_other(words: Words, others: Words, data: bytes, start: int, end: int) -> bool:
    """Return whether the label right before a value is of something else: one of `others`, and none of the words."""
    return is_near(others, data, start, end, _LABEL, 0) and not is_near(words, data, start, end, _LABEL, 0)


def _written(word: str) -> str:
    return re.escape(word).replace(r"\*", "[a-z]*").replace(r"\?", "[a-z]").replace(r"\ ", "[ _-]?")
