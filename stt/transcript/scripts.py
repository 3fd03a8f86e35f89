"""Properties of scripts: spaces, punctuation, width, direction and line breaks. Pure."""

from __future__ import annotations

import unicodedata

SENTENCE_ENDS = tuple(".!?…。！？｡؟۔।॥።፧։")  # noqa: RUF001  of several scripts
CLAUSE_ENDS = tuple(",;:、，；：،؛–—")  # noqa: RUF001
_SMALL_KANA = "ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶｧｨｩｪｫｬｭｮｯ"  # part of the kana before
CLOSERS = "\"'”’»)]}」』）》〉"  # noqa: RUF001


def unspaced(char: str) -> bool:
    """Whether a character is of a script without spaces between words (CJK, Thai, Lao, Khmer, Burmese)."""
    code = ord(char)
    return (
        0x0E00 <= code <= 0x0EFF
        or 0x1000 <= code <= 0x109F
        or 0x1780 <= code <= 0x17FF
        or 0x2E80 <= code <= 0x9FFF
        or 0xAC00 > code >= 0xA000
        or 0xF900 <= code <= 0xFAFF
        or 0xFF00 <= code <= 0xFF65
        or 0x20000 <= code <= 0x3FFFF
    )


def kind(char: str) -> str:
    """The script of a character: `kana`, `han`, `thai`, or empty for any other."""
    code = ord(char)
    if 0x3041 <= code <= 0x30FF or 0x31F0 <= code <= 0x31FF or 0xFF66 <= code <= 0xFF9D:
        return "kana"
    if 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x3FFFF:
        return "han"
    return "thai" if 0x0E01 <= code <= 0x0E5B else ""


def needs_space(left: str, right: str) -> bool:
    """Whether a space belongs between the last character of one word and the first of the next."""
    return not (left.isspace() or right.isspace() or unspaced(left) or unspaced(right))


def wide(char: str) -> bool:
    """Whether a character takes two columns, as a Chinese one does (Unicode Standard Annex 11)."""
    return unicodedata.east_asian_width(char) in "WF"


def width(text: str) -> int:
    """The number of columns that a text takes. Combining marks take none."""
    return sum(0 if unicodedata.category(char) in ("Mn", "Me", "Cf") else 1 + wide(char) for char in text)


def right_to_left(text: str) -> bool:
    """Whether the first letter is of a script that is written from right to left."""
    strong = (unicodedata.bidirectional(char) for char in text)
    return next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"


def may_break(left: str, right: str) -> bool:
    """Whether a line may be broken between two characters without a space.

    Only in scripts without spaces. Never before a closing mark, a dash or a small kana, after an opening mark
    or a currency sign, or before a combining mark.
    """
    if not (unspaced(left) or unspaced(right)) or right in _SMALL_KANA:
        return False
    return unicodedata.category(left) not in ("Ps", "Pi", "Sc") and unicodedata.category(right) not in (
        "Pe", "Pf", "Po", "Pd", "Mn", "Mc", "Me", "Lm", "Cf",
    )  # fmt: skip


def ends_sentence(text: str) -> bool:
    """Whether a text ends with the mark of a sentence's end, closing quotes and brackets aside."""
    return text.rstrip().rstrip(CLOSERS).endswith(SENTENCE_ENDS)


def ends_clause(text: str) -> bool:
    """Whether a text ends with a comma or the like, closing quotes and brackets aside."""
    return text.rstrip().rstrip(CLOSERS).endswith(CLAUSE_ENDS)
