"""MLLP frames out of a byte stream, wherever it is cut."""

from __future__ import annotations

from fhirserver.hl7v2.framing import Deframer, Event, Frame, TooLong, Truncated, frame

MESSAGE = b"MSH|^~\\&|A|B\rPID|1\r"


def all_of(*pieces: bytes, limit: int = 1000) -> tuple[list[Event], Deframer]:
    deframer = Deframer(limit)
    events = [event for piece in pieces for event in deframer.feed(piece)]
    return events + deframer.end(), deframer


def test_a_frame_gives_its_message() -> None:
    assert all_of(frame(MESSAGE))[0] == [Frame(MESSAGE)]


def test_a_stream_cut_at_every_byte_gives_the_same_messages() -> None:
    stream = frame(MESSAGE) + frame(b"MSH|second")
    assert all_of(*(stream[i : i + 1] for i in range(len(stream))))[0] == [Frame(MESSAGE), Frame(b"MSH|second")]


def test_frames_in_one_piece_come_apart() -> None:
    assert len(all_of(frame(MESSAGE) * 5)[0]) == 5


def test_a_doubled_start_is_one_start() -> None:
    assert all_of(b"\x0b" + frame(MESSAGE))[0] == [Frame(MESSAGE)]


def test_an_end_without_carriage_return_ends_a_frame() -> None:
    assert all_of(frame(MESSAGE)[:-1] + frame(MESSAGE)[:-1])[0] == [Frame(MESSAGE)] * 2


def test_bytes_between_frames_are_counted_and_passed_over() -> None:
    events, deframer = all_of(b"\x00junk" + frame(MESSAGE) + b"\r\n\x00" + frame(MESSAGE))
    assert events == [Frame(MESSAGE)] * 2
    assert deframer.junk == 6, "line ends between frames are no junk"


def test_a_half_frame_at_the_end_is_truncated() -> None:
    assert all_of(b"\x0bMSH|half")[0] == [Truncated(8)]


def test_a_sender_that_begins_again_leaves_a_truncated_message_and_a_whole_one() -> None:
    assert all_of(b"\x0bMSH|half" + frame(MESSAGE))[0] == [Truncated(8), Frame(MESSAGE)]


def test_a_vertical_tab_inside_text_is_text() -> None:
    assert all_of(frame(b"MSH|a\x0bb"))[0] == [Frame(b"MSH|a\x0bb")]


def test_a_frame_beyond_the_limit_is_told_once_with_its_beginning_and_the_stream_goes_on() -> None:
    events, deframer = all_of(b"\x0bMSH|" + b"x" * 600, b"x" * 600, b"x\x1c\r" + frame(MESSAGE))
    assert events == [TooLong(b"MSH|" + b"x" * 600, 1000), Frame(MESSAGE)]
    assert deframer.pending == 0


def test_an_empty_frame_is_a_frame() -> None:
    assert all_of(frame(b""))[0] == [Frame(b"")]
