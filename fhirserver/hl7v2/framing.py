"""MLLP framing, incrementally: bytes in as they come, whole frames out.

HL7 Minimal Lower Layer Protocol (v2 transport specification, appendix C): <VT> message <FS> <CR>. Pure: no sockets
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

START = b"\x0b"
END = b"\x1c"
RESTART = START + b"MSH"
DEFAULT_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One complete message as the sender framed it, without the framing bytes."""

    body: bytes


@dataclass(frozen=True, slots=True)
class TooLong:
    """A frame passed the size limit. `head` is its beginning, enough to acknowledge it; its rest is skipped, not
    kept.
    """

    head: bytes
    limit: int


@dataclass(frozen=True, slots=True)
class Truncated:
    """The stream, or the sender beginning again, ended a frame half way: nothing can be acknowledged."""

    size: int


Event = Frame | TooLong | Truncated


def frame(body: bytes) -> bytes:
    """The MLLP frame around a message."""
    return START + body + END + b"\r"


@dataclass(slots=True)
class Deframer:
    """Cuts a byte stream into frames, wherever the network split or joined it.

    Bytes outside frames (a stray CR after FS is normal and not counted) are skipped and counted in `junk`. A second VT
    directly after the first is taken as the same start. FS ends a frame whether or not CR follows. A frame of more than
    `limit` bytes gives one TooLong as soon as it is known, and the stream goes on behind its end.
    """

    limit: int = DEFAULT_LIMIT
    junk: int = 0
    _buffer: bytearray = field(default_factory=bytearray)
    _inside: bool = False
    _skipping: bool = False

    @property
    def pending(self) -> int:
        """Bytes held of a frame that has begun and not ended; 0 between frames."""
        return len(self._buffer) if self._inside else 0

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._inside

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete, in order."""
        events: list[Event] = []
        position = 0
        while position < len(data):
            step = self._content if self._inside else self._between
            position = step(data, position, events)
        return events

    def end(self) -> list[Event]:
        """The stream is over: Truncated if it ended inside a frame."""
        size, inside = len(self._buffer), self._inside
        self._buffer.clear()
        self._inside = self._skipping = False
        return [Truncated(size)] if inside else []

    def _between(self, data: bytes, position: int, events: list[Event]) -> int:
        start = data.find(START, position)
        stop = len(data) if start < 0 else start
        skipped = data[position:stop]
        self.junk += len(skipped) - skipped.count(b"\r") - skipped.count(b"\n")
        if start < 0:
            return stop
        self._inside = True
        return start + 1

    def _content(self, data: bytes, position: int, events: list[Event]) -> int:
        if not self._buffer and not self._skipping and data[position : position + 1] == START:
            self.junk += 1
            return position + 1
        stop = data.find(END, position)
        self._take(data[position : len(data) if stop < 0 else stop], events)
        if stop < 0:
            return len(data)
        if not self._skipping:
            self._complete(bytes(self._buffer), events)
        self._buffer.clear()
        self._inside = self._skipping = False
        return stop + 1

    def _complete(self, body: bytes, events: list[Event]) -> None:
        """A sender that broke off and began again on the same socket leaves half a message and a new start in one
        frame.
        """
        restart = body.rfind(RESTART)
        if restart >= 0:
            events.append(Truncated(restart))
            body = body[restart + 1 :]
        events.append(Frame(body))

    def _take(self, piece: bytes, events: list[Event]) -> None:
        if self._skipping:
            return
        if len(self._buffer) + len(piece) <= self.limit:
            self._buffer += piece
            return
        head = bytes(self._buffer[:4096]) or piece[:4096]
        events.append(TooLong(head, self.limit))
        self._buffer.clear()
        self._skipping = True
