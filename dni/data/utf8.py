"""Text files in UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path

from dni.errors import DataError

#: Byte order marks, longest first: the mark of UTF-32 begins with that of UTF-16.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_HEAD = 4096  # bytes examined to detect UTF-16 without a byte order mark


def read_utf8(file: Path) -> str:
    """Return the text of a file, without a byte order mark at its start. Line ends do not change.

    Raise DataError if the file cannot be read or is not UTF-8; the message names UTF-16 and UTF-32.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    other = _other_encoding(raw)
    if other is not None:
        raise DataError(
            f"{file} is {other}, not UTF-8 text: convert it (iconv -f {other} -t UTF-8 OLD > NEW) or leave it out"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + (len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0)
        raise DataError(f"{file} is not UTF-8 text: {error.reason} at byte {at}; convert it or leave it out") from None


def _other_encoding(raw: bytes) -> str | None:
    marked = next((name for mark, name in _OTHER_MARKS.items() if raw.startswith(mark)), None)
    if marked is not None:
        return marked
    return next((f"UTF-16{order}" for order, zeros in _zeros(raw[:_HEAD]).items() if zeros > 0.5), None)


def _zeros(head: bytes) -> dict[str, float]:
    """Return the share of zero bytes where Latin text in UTF-16 has them, for both byte orders."""
    halves = {"LE": head[1::2], "BE": head[::2]}
    return {order: half.count(0) / max(1, len(half)) for order, half in halves.items()}
