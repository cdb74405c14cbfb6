"""Characters that cannot be written: halves of a pair (lone surrogates), NUL, bytes of names in no known encoding.

JSON may hold half an emoji as `\\ud83d`; Python keeps a byte 0x83 of a file name that is not UTF-8 as U+DC83. Neither
can be encoded, so each is a traceback in the first file, terminal or tokenizer that it reaches.
"""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
_BROKEN = re.compile("[\0\ud800-\udfff]")
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def whole(text: str) -> str:
    """The text with U+FFFD in place of what cannot be written."""
    return _BROKEN.sub(REPLACEMENT, text)


def printable(text: str) -> str:
    """The text for people: what cannot be written or would move the cursor as an escape, bytes of names as \\x83."""
    return _UNSEEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # how Python keeps an undecodable byte (PEP 383)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
