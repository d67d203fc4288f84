"""nats-py's parser, with a short way for messages that are delivered as they are on the wire.

nats-py matches each message from the front of its buffer, takes it out of there and awaits a coroutine for it. Here the
whole messages of raw subscriptions are found in one go and handed over. Whatever else comes is nats-py's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from nats.protocol import parser

RawMessage = tuple[bytes, bytes, bytes, bytes]
"""Subject, reply, payload and header block, each as it came; no reply and no headers are empty."""
RawCallback = Callable[[Sequence[RawMessage]], None]
"""Given the messages that came together, in their order."""

# nats-py's own end a word at any white space, the server's at a blank: a form feed in a reply ended the connection.
_WORD: Final = rb"([^ \r\n]+)"
_MSG: Final = rb"MSG +%b +%b +(%b +)?(\d+)\r\n" % (_WORD, rb"(\d+)", _WORD)
_HMSG: Final = rb"HMSG +%b +%b +(%b +)?(\d+) +(\d+)\r\n" % (_WORD, rb"(\d+)", _WORD)
parser.MSG_RE = re.compile(rb"\A" + _MSG)
parser.HMSG_RE = re.compile(rb"\A" + _HMSG)
# Subject, subscription, reply, size of the headers, size in all. The common form is tried first, and takes half the
# time: its words end at a blank alone. The two numbers at its end keep it from matching beyond its line.
_plain_hmsg: Final = re.compile(rb"HMSG ([^ ]+) (\d+) ([^ ]+) (\d+) (\d+)\r\n").match
_hmsg: Final = re.compile(_HMSG.replace(rb"(%b +)?" % _WORD, rb"(?:%b +)?" % _WORD)).match
_msg: Final = re.compile(_MSG.replace(rb"(%b +)?(\d+)" % _WORD, rb"(?:%b +)?()(\d+)" % _WORD)).match
SHORT_BYTES: Final = 32 * 1024
"""What is longer comes in many reads: nats-py's own way looks at it once, not at each."""


class Parser(parser.Parser):
    """`on_error(error)` is called when a callback failed."""

    def __init__(self, nc: Any, callbacks: Mapping[int, RawCallback], on_error: Callable[[Exception], None]) -> None:
        super().__init__(nc)
        self._callbacks = callbacks
        self._on_error = on_error

    async def parse(self, data: bytes = b"") -> None:
        self.buf.extend(data)
        if self.state == parser.AWAITING_CONTROL_LINE and self._callbacks and self._hand_over():
            return
        await super().parse()

    def _hand_over(self) -> bool:
        """The raw messages at the front. Returns whether nothing is left but the beginning of another one."""
        data = bytes(self.buf)
        start, has_begun = 0, False
        whose, callback, came = b"", None, list[RawMessage]()
        while line := _plain_hmsg(data, start) or _hmsg(data, start) or _msg(data, start):
            subject, sid, reply, headers_size, total = line.groups()
            if sid != whose:
                self.give(callback, came)
                whose, callback, came = sid, self._callbacks.get(int(sid)), []
            if callback is None:
                break
            body = line.end()
            end = body + int(total)
            if end + parser.CRLF_SIZE > len(data):
                has_begun = end - body <= SHORT_BYTES
                break
            headers_end = body + int(headers_size or 0)
            start = end + parser.CRLF_SIZE
            came.append((subject, reply or b"", data[headers_end:end], data[body:headers_end]))
        self.give(callback, came)
        del self.buf[:start]
        return has_begun or not self.buf

    def give(self, callback: RawCallback | None, came: Sequence[RawMessage]) -> None:
        """Hand messages over, and count them."""
        if callback is None or not came:
            return
        self.nc.stats["in_msgs"] += len(came)
        self.nc.stats["in_bytes"] += sum([len(payload) for _, _, payload, _ in came])
        try:
            callback(came)
        except Exception as error:  # whatever it was, what comes next is something else
            self._on_error(error)
