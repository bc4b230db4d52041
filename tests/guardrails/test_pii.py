# ruff: noqa: RUF001  looking like another character is what is tested
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.guardrails.base import BadConfig, Surroundings
from fleming_sql.guardrails.documents import Document, Part
from fleming_sql.guardrails.pii import Pii, built_in, check_entity
from fleming_sql.guardrails.pii.folding import fold
from fleming_sql.types import Behavior, PiiEntity

PII = Pii({}, "mask", Surroundings())
BTC = "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"
SEGWIT = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"
TAPROOT = "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQC7\n-----END PRIVATE KEY-----"
ALNUM = "aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0cD2eF4hJ6kL8nP0rS2"


def found(text: str, pii: Pii = PII) -> list[tuple[str, str]]:
    """Return what is found in a text: what it is, and the characters."""
    return [(span.entity, text[span.start : span.end]) for span in pii.find(text)]


def masked(text: str, pii: Pii = PII) -> str:
    """Return a text as the guardrail lets it go on."""
    texts = pii.examine(Document("input", (Part(text, "messages[0].content", "user"),))).texts
    return text if texts is None else texts[0]


@pytest.mark.parametrize(
    ("entity", "value"),
    [
        ("CREDIT_CARD", "4111111111111111"),
        ("CREDIT_CARD", "4111 1111 1111 1111"),
        ("CREDIT_CARD", "5555-5555-5555-4444"),
        ("CREDIT_CARD", "3782 822463 10005"),
        ("CREDIT_CARD", "3056 930902 5904"),
        ("CREDIT_CARD", "3530.1113.3330.0000"),
        ("CREDIT_CARD", "6304000000000000"),
        ("EMAIL_ADDRESS", "ada.lovelace+tag@mail.example.co.uk"),
        ("EMAIL_ADDRESS", "o'brien@example.com"),
        ("EMAIL_ADDRESS", "ada@[192.168.0.1]"),
        ("EMAIL_ADDRESS", "ada (at) example (dot) com"),
        ("EMAIL_ADDRESS", "ada@xn--mller-kva.example"),
        ("EMAIL_ADDRESS", "ada@müller.de"),
        ("PHONE_NUMBER", "+49 30 1234567"),
        ("PHONE_NUMBER", "+1 (212) 555-0123"),
        ("PHONE_NUMBER", "+44 (0)20 7946 0958"),
        ("PHONE_NUMBER", "0044 20 7946 0958"),
        ("PHONE_NUMBER", "(212) 555-0123 ext. 42"),
        ("PHONE_NUMBER", "212.555.0123"),
        ("PHONE_NUMBER", "06 12 34 56 78"),
        ("PHONE_NUMBER", "030/1234567"),
        ("PHONE_NUMBER", "03-3210-4567"),
        ("PHONE_NUMBER", "(11) 91234-5678"),
        ("PHONE_NUMBER", "8 (495) 123-45-67"),
        ("PHONE_NUMBER", "98200 20000"),
        ("US_SSN", "123-45-6789"),
        ("IBAN_CODE", "DE89370400440532013000"),
        ("IBAN_CODE", "GB82 WEST 1234 5698 7654 32"),
        ("IBAN_CODE", "fr14 2004 1010 0505 0001 3m02 606"),
        ("IP_ADDRESS", "192.168.17.4"),
        ("IP_ADDRESS", "2001:db8::8a2e:370:7334"),
        ("IP_ADDRESS", "::ffff:192.0.2.128"),
        ("MAC_ADDRESS", "3c:22:fb:01:02:a3"),
        ("MAC_ADDRESS", "3C-22-FB-01-02-A3"),
        ("MAC_ADDRESS", "3c22.fb01.02a3"),
        ("CRYPTO", BTC),
        ("CRYPTO", SEGWIT),
        ("CRYPTO", SEGWIT.upper()),
        ("CRYPTO", TAPROOT),
        ("CRYPTO", "0x52908400098527886E0F7030069857D2E4169EE7"),
        ("URL_CREDENTIALS", "postgresql://ada:s3cret@db.example.com:5432/sales"),
        ("URL_CREDENTIALS", "redis://:s3cret@cache:6379/0"),
        ("API_KEY", "sk-" + ALNUM),
        ("API_KEY", "sk-proj-" + ALNUM),
        ("API_KEY", "sk-ant-" + "api03-" + ALNUM),
        ("API_KEY", "AKIA" + "IOSFODNN7EXAMPLE"),
        ("API_KEY", "ghp_" + ALNUM[:36]),
        ("API_KEY", "github_pat_" + ALNUM),
        ("API_KEY", "glpat-" + ALNUM[:20]),
        ("API_KEY", "xoxb-" + "123456789012-1234567890123-" + ALNUM[:24]),
        ("API_KEY", "sk_live_" + ALNUM[:24]),
        ("API_KEY", "AIza" + "Sy" + ALNUM[:33]),
        ("API_KEY", "SK" + "0123456789abcdef" * 2),
        ("API_KEY", "SG." + ALNUM[:22] + "." + ALNUM[:43]),
        ("API_KEY", "npm_" + ALNUM[:36]),
        ("API_KEY", "pypi-" + "AgEIcHlwaS5vcmc" + ALNUM),
        ("API_KEY", "hf_" + ALNUM[:34]),
        ("API_KEY", "dapi" + "0123456789abcdef" * 2),
        ("API_KEY", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + ALNUM),
        ("API_KEY", KEY),
    ],
)
def test_a_value_is_found_whole_by_its_form_alone(entity: str, value: str) -> None:
    assert found(f"See {value}, please") == [(entity, value)]


@pytest.mark.parametrize(
    ("entity", "value", "text"),
    [
        ("US_SSN", "123456789", "My SSN is {}."),
        ("US_SSN", "123 45 6789", "social security number: {}"),
        ("US_BANK_NUMBER", "1234567890", "Please wire it to bank account {}."),
        ("US_BANK_NUMBER", "021000021", "The routing number is {}."),
        ("US_BANK_NUMBER", "12345678", '{{"account_number": "{}"}}'),
        ("PASSPORT", "C01X00T47", "Reisepassnummer {}"),
        ("PASSPORT", "483920175", "passport no. {}"),
        ("PASSPORT", "E12345678", "护照号码是{}，谢谢"),
        ("DRIVER_LICENSE", "D1234567", "driver's license {}"),
        ("DRIVER_LICENSE", "MORGA657054SM9IJ", "driving licence: {}"),
        ("DRIVER_LICENSE", "303875334571", "運転免許証番号は{}です"),
        ("PHONE_NUMBER", "4155550132", "Call me at {}"),
        ("PHONE_NUMBER", "612 345 678", "Teléfono: {}"),
        ("PHONE_NUMBER", "13800021234", "手机{}"),
        ("API_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = {}"),
    ],
)
def test_a_word_near_tells_a_number_that_its_form_does_not(entity: str, value: str, text: str) -> None:
    assert found(text.format(value)) == [(entity, value)]


@pytest.mark.parametrize("value", ["123456789", "1234567890", "C01X00T47", "D1234567", "4155550132"])
def test_without_such_a_word_it_is_left(value: str) -> None:
    assert found(f"We had {value} of them") == []


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "DE89 3704 0044 0532 0130 01",
        "DE8937040044053201300",
        BTC[:-1] + "b",
        SEGWIT[:-1] + "5",
        "666-45-6789",
        "000-12-3456",
        "900-12-3456",
        "123-00-4567",
        "order 212-555-0123",
        "Order 1029384756 of 2026-05-03 at 14:22:05",
        "20260503142233",
        "1714567890123456",
        "version 2.4.1.0",
        "Chrome/120.0.6099.129",
        "OID 1.3.6.1.4.1.311",
        "9fceb02d0ae598e95dc970b74767f19372d61af8",
        "550e8400-e29b-41d4-a716-446655440000",
        "978-3-16-148410-0",
        "user@localhost",
        "logo@2x.png",
        "lodash@4.17.21",
        "git@github.com:acme/tools.git",
        "@anna_k",
        "std::vector<int> a; b::c",
        "12:30:45:10",
        "https://example.com:8443/a@b",
        "postgres://user:${PASSWORD}@db/x",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-learn-is-a-very-long-name-of-a-package",
        "100-200-3000",
        "58-08-2",
        "lottery: 04-11-19-23-37-42",
        "5 % off, AT&T, C:\\new\\table",
        "<EMAIL_ADDRESS> <PASSPORT> <US_BANK_NUMBER_2> 12345678",
    ],
)
def test_what_only_looks_like_personal_data_is_left(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("ａｄａ＠ｅｘａｍｐｌｅ．ｃｏｍ", "EMAIL_ADDRESS"),  # fullwidth
        ("\u0430d\u0430@ex\u0430mple.com", "EMAIL_ADDRESS"),  # Cyrillic
        ("ada@exam\u200bple.com", "EMAIL_ADDRESS"),
        ("a\u00adda@example\u2060.com", "EMAIL_ADDRESS"),
        (r"ada\u0040example.com", "EMAIL_ADDRESS"),
        ("ada%40example.com", "EMAIL_ADDRESS"),
        ("ada&#64;example&period;com", "EMAIL_ADDRESS"),
        ("ada&commat;example&#x2e;com", "EMAIL_ADDRESS"),
        ("4111\u00a01111\u20091111\u202f1111", "CREDIT_CARD"),
        ("4111–1111—1111−1111", "CREDIT_CARD"),
        ("٤١١١١١١١١١١١١١١١", "CREDIT_CARD"),
        ("4\ufe0f\u20e31\ufe0f\u20e311111111111111", "CREDIT_CARD"),
        ("4111\u200d1111\ufeff1111\u200c1111", "CREDIT_CARD"),
        ("DE89\u200b370400440532013000", "IBAN_CODE"),
        (r"postgres:\/\/ada:s3cret@db.example.com\/x", "URL_CREDENTIALS"),
    ],
)
def test_a_disguised_value_is_found_where_it_stands_in_the_text_as_given(text: str, entity: str) -> None:
    before = "Grüße 😀 \u200b ここ: "

    spans = [tuple(span) for span in PII.find(f"{before}{text} end")]

    assert spans == [(len(before), len(before) + len(text), entity)]


CARD_IN_GROUPS = [
    "4111\u200b1111 1111 1111",
    "41111111 1111 1111",
    "4111 11111111 1111",
    "411 111 111 111 1111",
    "4111\n1111\n1111\n1111",
    "4111\r\n1111\r\n1111\r\n1111",
    "4111\t1111\t1111\t1111",
    "4111 1111\n1111 1111",
    "4111_1111_1111_1111",
    "4111/1111/1111/1111",
    "4111, 1111, 1111, 1111",
    "4111,1111,1111,1111",
    "4111--1111--1111--1111",
    "4111\u00b71111\u00b71111\u00b71111",
    "4111\u2003" + "1111\u3000" + "1111\u20281111",
    "3782_822463_10005",
]


@pytest.mark.parametrize("card", CARD_IN_GROUPS)
@pytest.mark.parametrize("around", ["{}", "see:{} ok", "({})", "{}, 12/27"])
def test_a_card_is_found_however_its_digits_are_grouped(card: str, around: str) -> None:
    assert found(around.format(card)) == [("CREDIT_CARD", card)]


@pytest.mark.parametrize(
    "text", ["card 411111 1111111111", "card_4111_1111_1111_1111", "cards:\n4111\n1111\n1111\n1111\n5555"]
)
def test_the_word_for_a_card_tells_groups_that_may_be_something_else(text: str) -> None:
    assert [entity for entity, _ in found(text)] == ["CREDIT_CARD"]


def test_the_code_of_a_card_may_follow_it() -> None:
    assert found("4111 1111 1111 1111 123") == [("CREDIT_CARD", "4111 1111 1111 1111")]


def test_cards_with_unusual_marks_are_all_found() -> None:
    cards = [card for number in range(20) for card in ("4111_1111_1111_1111", "5555_5555_5555_4444")]

    assert [value for _, value in found(" and ".join(cards))] == cards


@pytest.mark.parametrize(
    "text",
    [
        "411111 1111111111",  # two numbers side by side
        "4111\n1111\n1111\n1111\n1111\n2345",  # a column
        "1111, 4111, 1111, 1111, 1111",
        "341,111,111,111,111",
        "4111-1111, 1111-1111",  # ranges
        "411.1111 111.1111 11.11111",
        "id_4111_1111_1111_1111_7",
        "41 11, 11 11, 11 11, 11 11",
        "4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1",
        "+4111 111 111 111 111",
        "2023-05-06 11:12:13, 2023-05-07 11:12:13",
        "in 536, 22, 8714 and 9 cases",
        "536_22_8714",
        "AT12, 3456, 7890, 1234, 5678",
    ],
)
def test_lists_and_columns_of_numbers_are_left(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("mark", ["_", "/", ", ", "\n", "\t", "\r\n", "\u200b", "\u2009"])
def test_ibans_and_social_security_numbers_are_found_whatever_stands_between_their_groups(mark: str) -> None:
    iban, ssn = (mark.join(groups.split()) for groups in ("DE89 3704 0044 0532 0130 00", "536 22 8714"))

    assert found(f"to {iban}") == [("IBAN_CODE", iban)]
    assert found(f"my SSN is {ssn}") == [("US_SSN", ssn)]


@pytest.mark.parametrize(
    "address", ["ivan@почта.рф", "иван@почта.рф", "info@ουτοπία.example", "ivan@example.рф", "user@münchen.de"]
)
def test_an_address_of_mail_is_found_in_scripts_with_spaces(address: str) -> None:
    assert found(f"Пишите на {address}, пожалуйста") == [("EMAIL_ADDRESS", address)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("٠٥٠١٢٣٤٥٦٧", "٠٥٠١٢٣٤٥٦٧"),
        ("جوال ٩٦١٢٣٤٥٦", "٩٦١٢٣٤٥٦"),
        ("τηλ. 210 1234567", "210 1234567"),
        ("ΤΗΛ: 2101234567", "2101234567"),
    ],
)
def test_phone_numbers_are_found_in_greek_and_arabic(text: str, number: str) -> None:
    assert found(text) == [("PHONE_NUMBER", number)]


def in_messages(*texts: str) -> list[str]:
    """Return messages as the guardrail lets them go on."""
    parts = tuple(Part(text, f"messages[{at}].content", "user") for at, text in enumerate(texts))
    return list(PII.examine(Document("input", parts)).texts or texts)


@pytest.mark.parametrize(
    ("texts", "masked_texts"),
    [
        (["4111 1111", "1111 1111 thanks"], ["<CREDIT_CARD>", " thanks"]),
        (["41111111", "11111111"], ["<CREDIT_CARD>", ""]),
        (["my ssn is 536-22", "-8714"], ["my ssn is <US_SSN>", ""]),
    ],
)
def test_a_value_split_over_two_messages_is_found(texts: list[str], masked_texts: list[str]) -> None:
    assert in_messages(*texts) == masked_texts


@pytest.mark.parametrize(
    ("question", "answer", "entity"),
    [
        ("my passport number is", "C01X00T47", "PASSPORT"),
        ("What is your phone number?", "2101234567", "PHONE_NUMBER"),
        ("x" * 300 + " my ssn:", "536228714 " + "y" * 300, "US_SSN"),
    ],
)
def test_a_word_in_the_message_before_tells_a_number(question: str, answer: str, entity: str) -> None:
    number, space, rest = answer.partition(" ")

    assert number not in in_messages(question, answer)[1]
    assert in_messages(question, answer) == [question, f"<{entity}>{space}{rest}"]


def test_a_word_two_messages_before_tells_a_number_if_it_is_near() -> None:
    assert in_messages("passport number", "", "ok:", "C01X00T47")[3] == "<PASSPORT>"
    assert in_messages("passport number", "z " * 100, "C01X00T47")[2] == "C01X00T47"


def test_an_escaped_line_break_is_no_part_of_what_follows_it() -> None:
    assert masked(r'{"text": "Write to\nada@example.com"}') == r'{"text": "Write to\n<EMAIL_ADDRESS>"}'


def test_of_finds_that_overlap_the_surest_wins() -> None:
    assert [entity for entity, _ in found("https://ada:ghp_" + ALNUM[:36] + "@example.com")] == ["API_KEY"]
    assert [entity for entity, _ in found("https://ada:secret@example.com/x")] == ["URL_CREDENTIALS"]


def test_a_number_with_an_international_prefix_is_found_after_the_dash_of_an_identifier() -> None:
    assert found("a716-00491701234567") == [("PHONE_NUMBER", "00491701234567")]
    assert found("a716-446655-00491701234567") == [("PHONE_NUMBER", "00491701234567")]


def test_a_card_that_a_word_stands_right_before_is_found() -> None:
    assert found("card4111111111111111") == [("CREDIT_CARD", "4111111111111111")]


@pytest.mark.parametrize(
    ("text", "entity", "value"),
    [
        ("card_4111111111111111", "CREDIT_CARD", "4111111111111111"),
        ("x4111111111111111", "CREDIT_CARD", "4111111111111111"),
        ("4111111111111111x", "CREDIT_CARD", "4111111111111111"),
        ("4111111111111111_1", "CREDIT_CARD", "4111111111111111"),
        ("<CREDIT_CARD_4111111111111111>", "CREDIT_CARD", "4111111111111111"),
        ("iban_DE89370400440532013000", "IBAN_CODE", "DE89370400440532013000"),
        ("xDE89370400440532013000", "IBAN_CODE", "DE89370400440532013000"),
        ("DE89370400440532013000x", "IBAN_CODE", "DE89370400440532013000"),
        ("ssn_123-45-6789", "US_SSN", "123-45-6789"),
        ("user_123-45-6789", "US_SSN", "123-45-6789"),
        ("<US_SSN_536221234>", "US_SSN", "536221234"),
    ],
)
def test_a_value_is_found_that_is_glued_to_a_word(text: str, entity: str, value: str) -> None:
    assert found(f"see {text}") == [(entity, value)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("@ada@example.com", "ada@example.com"),
        ('"ada"@example.com', '"ada"@example.com'),
        ('"ada lovelace"@example.com', '"ada lovelace"@example.com'),
        ("mailto://ada@example.com", "ada@example.com"),
        ("ada@example.com.so", "ada@example.com.so"),
        ("git@example.com: hi", "git@example.com"),
    ],
)
def test_an_address_of_mail_is_found_in_unusual_surroundings(text: str, value: str) -> None:
    assert found(text) == [("EMAIL_ADDRESS", value)]


@pytest.mark.parametrize("text", ["ssh://ada@example.com/x", "libm@2.so", "git@example.com:acme/tools"])
def test_what_looks_like_an_address_of_mail_is_left(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("ada@\x00example.com", "EMAIL_ADDRESS"),
        (r"ada@\u0000example.com", "EMAIL_ADDRESS"),
        ("\x01".join("4111111111111111"), "CREDIT_CARD"),
        ("4111\x1b1111\x7f1111\x021111", "CREDIT_CARD"),
    ],
)
@pytest.mark.parametrize("before", ["", "é "])
def test_control_characters_hide_nothing(text: str, entity: str, before: str) -> None:
    assert found(before + text) == [(entity, text)]


def test_what_is_left_beside_a_value_split_over_two_messages_is_found() -> None:
    once = in_messages("ada@", "example.com+49 30 1234567")

    assert once == ["<EMAIL_ADDRESS>", "<PHONE_NUMBER>"]
    assert in_messages(*once) == once


@pytest.mark.parametrize(
    "identifier",
    [
        "e29b-41d4-a716-446655440000",
        "a4111111111111111",
        "a4111111111111111b2",
        "x1y4111111111111111",
        "x4111111111111111z9",
        "img_12_4111111111111111_n",
        "order_4111111111111111",
        "a2-4111-1111-1111-1111",
        "a1_123-45-6789",
        "x1DE89370400440532013000",
        "DE89370400440532013000x1",
    ],
)
def test_no_number_is_found_in_an_identifier(identifier: str) -> None:
    assert found(f"see {identifier}") == []


def test_a_url_with_a_long_scheme_is_found_from_its_first_character() -> None:
    url = f"{'a' * 40}://ada:s3cret@example.com"
    assert found(f"see {url}") == [("URL_CREDENTIALS", url)]


def test_the_finds_are_masked_and_the_rest_is_kept() -> None:
    assert masked("Ada <ada@example.com>, 4111 1111 1111 1111!") == "Ada <<EMAIL_ADDRESS>>, <CREDIT_CARD>!"


def test_only_the_entities_asked_for_are_found() -> None:
    pii = Pii({"entities": ["EMAIL_ADDRESS"]}, "mask", Surroundings())

    assert found("ada@example.com 4111111111111111", pii) == [("EMAIL_ADDRESS", "ada@example.com")]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("EMAIL_ADRESS", "EMAIL_ADDRESS"),
        ("EMAIL", "EMAIL_ADDRESS"),
        ("ssn", "US_SSN"),
        ("card", "CREDIT_CARD"),
        ("ip", "IP_ADDRESS"),
        ("NOTHING_LIKE_IT", r"fleming\.built_in_pii_entities"),
    ],
)
def test_an_unknown_entity_is_refused_with_names_like_it(name: str, near: str) -> None:
    with pytest.raises(BadConfig, match=near):
        Pii({"entities": [name]}, "mask", Surroundings())


@pytest.mark.parametrize("behavior", ["block", "log"])
def test_only_what_is_masked_can_be_restored(behavior: Behavior) -> None:
    with pytest.raises(BadConfig, match="restore"):
        Pii({"restore": True}, behavior, Surroundings())


def test_restore_numbers_the_placeholders() -> None:
    pii = Pii({"restore": True}, "mask", Surroundings())

    assert masked("a@example.com b@example.com a@example.com", pii) == (
        "<EMAIL_ADDRESS_1> <EMAIL_ADDRESS_2> <EMAIL_ADDRESS_1>"
    )


def test_the_table_lists_every_entity_once_with_validators_that_exist() -> None:
    rows = built_in()

    assert len({name for name, *_ in rows}) == len(rows) >= 13
    for _, _, validator, _ in rows:
        check_entity(PiiEntity("MINE", r"\d+", validator))


# What users add


EMPLOYEE = PiiEntity("EMPLOYEE_ID", r"\bE-\d{5}\b")


def _own(*entities: PiiEntity) -> Pii:
    return Pii({}, "mask", Surroundings(pii_entities=entities))


def test_an_entity_of_ones_own_is_found_beside_the_others() -> None:
    assert masked("E-12345 is ada@example.com", _own(EMPLOYEE)) == "<EMPLOYEE_ID> is <EMAIL_ADDRESS>"


def test_its_validator_has_to_pass() -> None:
    pii = _own(PiiEntity("LOYALTY", r"\b99\d{6}\b", "luhn"))

    assert found("99000002 99000003", pii) == [("LOYALTY", "99000002")]


def test_one_of_its_context_words_has_to_stand_near() -> None:
    pii = _own(PiiEntity("ROOM", r"\b\d{4}\b", None, ("room", "Zimmer")))

    assert found("ZIMMER 4711", pii) == [("ROOM", "4711")]
    assert found("in the year 1984", pii) == []


def test_its_pattern_may_have_letters_outside_ascii() -> None:
    pii = _own(PiiEntity("FILE_NUMBER", r"Aktennummer für \d{4}"))

    assert found("😀 Aktennummer für 4711 liegt vor", pii) == [("FILE_NUMBER", "Aktennummer für 4711")]


def test_it_wins_over_what_is_built_in_and_has_no_check_digit() -> None:
    pii = _own(PiiEntity("CUSTOMER", r"\b\d{3}-\d{3}-\d{4}\b"))

    assert found("212-555-0123", pii) == [("CUSTOMER", "212-555-0123")]


@pytest.mark.parametrize(
    ("entity", "problem"),
    [
        (PiiEntity("X", "(a"), "not valid RE2"),
        (PiiEntity("X", r"(?=a)b"), "not valid RE2"),
        (PiiEntity("X", "a*"), "empty text"),
        (PiiEntity("X", "a", "lun"), "did you mean luhn"),
        (PiiEntity("employee", "a"), "name"),
        (PiiEntity("EMAIL_ADDRESS", "a"), "built in"),
        (PiiEntity("X", "a", None, (" ",)), "context word"),
    ],
)
def test_an_entity_that_cannot_work_is_refused_with_the_reason(entity: PiiEntity, problem: str) -> None:
    with pytest.raises(BadConfig, match=problem):
        check_entity(entity)


# Properties


VALUES = {
    "4111 1111 1111 1111": "CREDIT_CARD",
    "378282246310005": "CREDIT_CARD",
    "DE89 3704 0044 0532 0130 00": "IBAN_CODE",
    "GB82WEST12345698765432": "IBAN_CODE",
    "ada.lovelace@example.com": "EMAIL_ADDRESS",
}
AROUND = st.text(st.sampled_from("äß😀漢字かな。、！？,;:!?()[]{}\"'<> \n\t«»€£…🇩🇪"), max_size=12)
NOISE = st.text(
    st.sampled_from("0123456789 -.:/@+()<>_%&\\abcdefXYZ\u200b４éａ😀中\n") | st.sampled_from(list("äß漢")), max_size=60
)
WORDS = ["passport", "account", "phone", "SSN", "123-45-6789", "212-555-0123", "C01X00T47", "<PASSPORT>"]
PIECES = st.lists(NOISE | st.sampled_from([*VALUES, *WORDS]), max_size=8)


@given(AROUND, st.sampled_from(sorted(VALUES)), AROUND)
def test_a_valid_value_is_found_in_any_surroundings(before: str, value: str, after: str) -> None:
    assert (VALUES[value], value) in found(f"{before} {value} {after}")


@given(PIECES)
def test_masking_a_masked_text_changes_nothing(pieces: list[str]) -> None:
    once = masked(" ".join(pieces))

    assert masked(once) == once


@given(st.text(max_size=80) | NOISE)
def test_a_text_without_finds_is_left_as_it_is(text: str) -> None:
    if not PII.find(text):
        assert masked(text) == text


@given(PIECES)
def test_finds_are_in_order_and_do_not_overlap(pieces: list[str]) -> None:
    text = "".join(pieces)
    ends = [0]
    for span in PII.find(text):
        assert ends[-1] <= span.start < span.end <= len(text)
        ends.append(span.end)


@given(st.sampled_from(sorted(VALUES)), st.data())
def test_what_is_disguised_is_found_from_its_first_character_to_its_last(value: str, data: st.DataObject) -> None:
    disguises = ("{}", "{}\u200b", "{}\ufe0f", "\\u{:04x}", "%{:02x}", "&#{};")
    pieces = []
    for position, character in enumerate(value):
        disguise = data.draw(st.sampled_from(disguises if position < len(value) - 1 else disguises[:1]))
        pieces.append(disguise.format(ord(character) if ":" in disguise or "#" in disguise else character))
    text = "".join(pieces)

    assert found(f"é {text} é") == [(VALUES[value], text)]


@given(st.text(max_size=60))
def test_folding_keeps_the_length(text: str) -> None:
    assert len(fold(text)) == len(text)


# Long and unpleasant texts


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1-",
        "1.",
        "1 ",
        "a",
        "a@",
        "@",
        ":",
        "::",
        "((((",
        "eyJ",
        "eyJhbGciOi.",
        "+49",
        "a:b@",
        "://",
        "0x",
        "4111 ",
        "212-555-0123 ",
        "DE89",
        "passport A1234567 ",
        "\\",
        "%4",
        "&#",
        "é",
        "\u200b",
        "-----BEGIN PRIVATE KEY-----\n",
    ],
)
def test_a_long_text_of_one_thing_takes_time_in_proportion_to_its_length(piece: str) -> None:
    # Ten times the text takes ten times as long; what is quadratic takes hours for this one.
    PII.find(piece * (200_000 // len(piece)))
