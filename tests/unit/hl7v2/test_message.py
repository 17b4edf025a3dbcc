"""Messages as senders write them: delimiters, line ends, character sets, escapes, nulls, versions."""

from __future__ import annotations

import pytest

from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2.message import MAX_REPETITIONS, MAX_SEGMENTS, MOST_WARNINGS, Message, nearest_version

HEAD = "MSH|^~\\&|APP|FAC|||20260914||ADT^A01^ADT_A01|1|P|2.5"


def message(*segments: str, head: str = HEAD, encoding: str = "utf-8", end: str = "\r") -> Message:
    return Message.parse((end.join((head, *segments)) + end).encode(encoding))


def test_paths_reach_fields_repetitions_components_and_subcomponents() -> None:
    found = message("PID|1||1^^^A&1.2&ISO~2^^^B", "OBX|1", "OBX|2|NM")
    assert found["PID-3"] == found["PID-3.1"] == "1"
    assert (found["PID-3.4"], found["PID-3.4.2"], found["PID-3[2].4"]) == ("A", "1.2", "B")
    assert (found["OBX[2]-2"], found["OBX[3]-2"], found["PID-99.9.9"], found["ZZZ-1"]) == ("NM", "", "", "")
    assert (found["MSH-1"], found["MSH-2"], found["MSH-3"], found["MSH-9.2"]) == ("|", "^~\\&", "APP", "A01")


@pytest.mark.parametrize("path", ["PID", "PID-", "pid-3", "PID-3.", "PID-3.1.1.1", "PID-1111"])
def test_a_path_that_is_none_is_a_key_error(path: str) -> None:
    with pytest.raises(KeyError):
        message("PID|1")[path]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\r\r\n"])
def test_every_line_end_ends_a_segment(end: str) -> None:
    assert [s.name for s in message("EVN|A01", "PID|1", end=end)] == ["MSH", "EVN", "PID"]


def test_a_byte_order_mark_and_framing_bytes_around_are_dropped() -> None:
    assert Message.parse(b"\xef\xbb\xbf" + HEAD.encode()).event == "ADT_A01"
    assert Message.parse(b"\x0b" + HEAD.encode() + b"\x1c\r").event == "ADT_A01"


def test_five_and_three_and_other_delimiters_are_taken() -> None:
    assert message("PID|1||1^2", head=HEAD.replace("^~\\&", "^~\\&#"))["PID-3.2"] == "2"
    assert (
        message("PID*1**1@2*a!b", head=HEAD.replace("|", "*").replace("^~\\&", "@!\\%").replace("^", "@"))["PID-3.2"]
        == "2"
    )
    assert message("PID|1||1^2&3", head=HEAD.replace("^~\\&", "^~"))["PID-3.2"] == "2&3"


def test_a_delimiter_given_twice_is_a_warning() -> None:
    found = message("PID|1||1^2&3", head=HEAD.replace("^~\\&", "^~\\\\&"))
    assert found["PID-3.2.2"] == "3"
    assert found.warnings


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"   ",
        b"PID|1",
        b"hello",
        b"MSH",
        b"MSH|",
        b"MSH\r\r\r",
        b"MSHABCDEFGH",
        b"\x00" * 100,
        b"MSH\x00^~\\&\x00A\rPID",
    ],
)
def test_bytes_without_a_header_are_refused(raw: bytes) -> None:
    with pytest.raises(Problem) as caught:
        Message.parse(raw)
    assert caught.value.issues[0].code == "structure"


def test_utf_16_is_refused_with_a_reason() -> None:
    with pytest.raises(Problem, match="UTF-16"):
        Message.parse(HEAD.encode("utf-16"))


def test_too_many_segments_are_refused() -> None:
    with pytest.raises(Problem) as caught:
        Message.parse(HEAD.encode() + b"\rA" * (MAX_SEGMENTS + 1))
    assert caught.value.issues[0].code == "too-long"


@pytest.mark.parametrize("fields", [["~" * (MAX_REPETITIONS + 1)], ["~" * 9_000] * 12])
def test_more_repetitions_than_anybody_means_are_refused(fields: list[str]) -> None:
    """Each may become an element: a frame of 4 MB holds two millions."""
    with pytest.raises(Problem, match="repetitions") as caught:
        message(*(f"PID|1||{field}" for field in fields))
    assert caught.value.issues[0].code == "too-long"
    assert len(message(f"PID|1||{'1~' * MAX_REPETITIONS}").segments[1].repetitions(3)) == MAX_REPETITIONS + 1


def test_thousands_of_broken_lines_are_one_segment_and_few_warnings() -> None:
    found = message("OBX|1|TX|||" + "a" * 100_000, *["x y"] * 15_000)
    assert found.segments[1].raw(5) == "a" * 100_000 + "\nx y" * 15_000
    assert len(found.warnings) == MOST_WARNINGS


def test_a_line_that_is_no_segment_goes_on_with_the_one_before_and_is_told() -> None:
    found = message("OBX|1|TX|||first line", "and a second, with a | in it", "NTE|1")
    assert found["OBX-5"] == "first line\nand a second, with a "
    assert [s.name for s in found] == ["MSH", "OBX", "NTE"]
    assert found.warnings == ["a line that is no segment was appended to OBX (segment 2)"]


def test_z_segments_and_unexpected_ones_stay_in_their_place() -> None:
    assert [s.name for s in message("ZPI|1", "PID|1", "QQQ|x", "zab|1")] == ["MSH", "ZPI", "PID", "QQQ", "ZAB"]


@pytest.mark.parametrize(
    ("escaped", "meant"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
        (r"\X436F6465\ and \X0D0A\.", "Code and \r\n."),
        (r"line one\.br\line two", "line one\nline two"),
        (r"\H\bold\N\ text\.sp2\end", "bold text\n\nend"),
        (r"\Zlocal\ and \C2842\ stay", r"\Zlocal\ and \C2842\ stay"),
        (r"\XZZ\ \X4\ \.inx\ .", r"\XZZ\ \X4\ \.inx\ ."),
        ("a lone \\ backslash", "a lone \\ backslash"),
        (r"\X", r"\X"),
    ],
)
def test_escapes_mean_what_they_say_and_unknown_ones_stay(escaped: str, meant: str) -> None:
    assert message(f"PID|1||||{escaped}")["PID-5"] == meant


def test_unknown_escapes_are_counted() -> None:
    found = message(r"PID|1||||\Zq\x\Zq\ ")
    assert found["PID-5"].startswith("\\Zq\\")
    assert found.escapes.unknown == 2


def test_encoding_what_was_decoded_gives_the_escapes_back() -> None:
    found = message(r"PID|1||||a\F\b\S\c\T\d\R\e\E\f")
    assert found.escapes.encode(found["PID-5"]) == r"a\F\b\S\c\T\d\R\e\E\f"


def test_an_explicit_null_is_not_an_absent_value() -> None:
    segment = message('PID|1||""|').first("PID")
    assert segment is not None
    assert (segment.value(3), segment.value(4)) == ('""', "")


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        ("8859/1", "latin-1", "Ångström"),
        ("8859/1", "cp1252", "O\u2019Brien"),
        ("8859/15", "iso8859-15", "5 €"),
        ("8859/2", "iso8859-2", "Łukasz"),
        ("UNICODE UTF-8", "utf-8", "Łukasz Ångström 山田"),
        ("UTF-8", "utf-8", "Ж"),
        ("~ISO IR87", "iso2022_jp", "山田|太郎".replace("|", "")),
        ("ISO IR14~ISO IR87", "iso2022_jp_ext", "ﾔﾏﾀﾞ"),
        ("GB 18030-2000", "gb18030", "王"),
        ("", "utf-8", "Ångström"),
        ("", "latin-1", "Ångström"),
        ("ASCII", "latin-1", "Ångström"),
        ("NO SUCH SET", "utf-8", "Ж"),
    ],
)
def test_characters_are_read_as_declared_or_as_they_are(declared: str, encoding: str, text: str) -> None:
    found = message(f"PID|1||||{text}", head=f"{HEAD}||||||{declared}", encoding=encoding)
    assert found["PID-5"] == text


def test_the_endpoint_says_what_an_undeclared_set_is() -> None:
    raw = f"{HEAD}\rPID|1||||5 €".encode("iso8859-15")
    assert Message.parse(raw, "8859/15")["PID-5"] == "5 €"


def test_bytes_that_are_not_what_was_declared_are_replaced_and_told() -> None:
    found = Message.parse(f"{HEAD}||||||UNICODE UTF-8\rPID|1||||A".encode() + b"\xff\xfe")
    assert found["PID-5"] == "A\ufffd\ufffd"
    assert found.warnings


@pytest.mark.parametrize(
    ("text", "version"),
    [
        *(("2.5.1", "2.5.1"), ("2.3", "2.3"), ("v2.4", "2.4"), ("2.7.1", "2.7.1"), ("2.9", "2.9")),
        *(("2.99", "2.9"), ("1.0", "2.1"), ("", "2.5"), ("nonsense", "2.5"), ("2.5.9", "2.5.1")),
    ],
)
def test_an_unknown_version_is_read_as_the_nearest(text: str, version: str) -> None:
    assert nearest_version(text) == version


def test_the_event_is_found_where_the_header_is_short() -> None:
    assert message(head=HEAD.replace("ADT^A01^ADT_A01", "ADT")).event == "ADT"
    assert message("EVN|A08", head=HEAD.replace("ADT^A01^ADT_A01", "ADT")).event == "ADT_A08"
