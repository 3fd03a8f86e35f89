"""Reads the name of a file from a form's headers, as browsers and curl write it, and cleans it."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote

_CHARACTERS = 255
# One parameter of a Content-Disposition: a quoted value may hold semicolons and escaped quotes.
_PARAMETER = re.compile(
    r';\s*([\w!#$&+.^`|~*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))', re.ASCII | re.DOTALL
)
# Escapes of browsers inside quotes for a quote, CR and LF (WHATWG: multipart/form-data encoding).
_BROWSER = {"%22": '"', "%0D": "\r", "%0A": "\n"}
# Format characters that are kept: joiners in Persian and Indic words and emoji families, tags in the flags of
# regions, and visible Arabic signs.
_FORMATS = re.compile("[\u200c\u200d\U000e0020-\U000e007f\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2]")
# Categories that are dropped: controls, lone surrogates, line separators, and formats, of which some change
# the direction of text and can make exe.mp3 look like 3pm.exe.
_DROPPED = {"Cc", "Cs", "Zl", "Zp", "Cf"}


def disposition(header: str) -> tuple[str | None, str | None]:
    """The name of a form's part and of its file, from its Content-Disposition.

    aiohttp's reader splits at semicolons inside quotes, and prints what it cannot read as a warning.
    """
    found: dict[str, str] = {}
    for key, quoted, token in _PARAMETER.findall(header):
        found.setdefault(key.lower(), _unescape(quoted) if quoted else token.strip())
    return found.get("name"), _extended(found.get("filename*", "")) or found.get("filename")


def _unescape(quoted: str) -> str:
    # curl before 7.81 escapes a quote and a backslash; a browser leaves a backslash as it is.
    text = re.sub(r'\\(["\\])', r"\1", quoted)
    return re.sub("%22|%0D|%0A", lambda match: _BROWSER[match.group().upper()], text, flags=re.IGNORECASE)


def _extended(value: str) -> str | None:
    """RFC 5987, as older Python clients send it: ``UTF-8''na%C3%AFve.wav``."""
    charset, _, rest = value.partition("'")
    _, quote, encoded = rest.partition("'")
    if not quote:
        return None
    try:
        return unquote(encoded, charset or "utf-8", "strict")
    except (LookupError, ValueError):
        return None  # `filename` is used instead


def clean(filename: str | None) -> str:
    """The last part of a path, without controls and direction marks. It is only displayed, never opened."""
    last = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(c for c in last if _is_kept(c)).strip()
    name = str(Path(kept[-_CHARACTERS:]))
    return name if _FORMATS.sub("", name) not in ("", ".", "..") else "recording"


def _is_kept(character: str) -> bool:
    if _FORMATS.match(character):
        return True
    category = unicodedata.category(character)
    # In Python's tables newer emoji are unassigned (Cn), as noncharacters are.
    return category not in _DROPPED and (category != "Cn" or not _is_noncharacter(ord(character)))


def _is_noncharacter(code: int) -> bool:
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
