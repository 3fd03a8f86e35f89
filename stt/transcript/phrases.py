"""Finds where phrases begin in scripts without spaces, with the models of BudouX. Pure.

BudouX (Google) cuts Japanese, Chinese and Thai text into phrases at which a line may be broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate, groupby
from typing import Literal

import budoux

from stt.transcript import scripts

_Model = Literal["ja", "th", "zh-hans", "zh-hant"]
_LOADERS: dict[_Model, Callable[[], budoux.Parser]] = {
    "ja": budoux.load_default_japanese_parser,
    "th": budoux.load_default_thai_parser,
    "zh-hans": budoux.load_default_simplified_chinese_parser,
    "zh-hant": budoux.load_default_traditional_chinese_parser,
}
# The models were trained on wide punctuation only.
_WIDE_MARKS = str.maketrans(",.!?:;", "，。！？：；")  # noqa: RUF001


def continued(text: str) -> frozenset[int]:
    """The offsets inside a phrase, before which a line break might cut a word.

    There are none in a script with spaces between words, or without a model.
    """
    model = _model_of(text)
    if model is None:
        return frozenset()
    inside: set[int] = set()
    for start, chunk in _chunks(text):
        found = _parser(model).parse(chunk.translate(_WIDE_MARKS))
        begins = accumulate(map(len, found), initial=start)
        inside |= set(range(start, start + len(chunk))).difference(begins)
    return frozenset(at for at in inside if not scripts.ends_clause(text[at - 1]))


def _model_of(text: str) -> _Model | None:
    kinds = {scripts.kind(char) for char in text}
    if "kana" in kinds:
        return "ja"
    if "han" in kinds:
        return "zh-hant" if _is_traditional(text) else "zh-hans"
    return "th" if "thai" in kinds else None


def _is_traditional(text: str) -> bool:
    """Whether all Chinese characters are in Big5 (Taiwan) but not in GB 2312 (mainland China)."""
    han = "".join(char for char in text if scripts.kind(char) == "han")
    return not _fits(han, "gb2312") and _fits(han, "big5")


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@cache
def _parser(model: _Model) -> budoux.Parser:
    return _LOADERS[model]()


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """Each piece of text between spaces, with its offset."""
    at = 0
    for space, characters in groupby(text, str.isspace):
        chunk = "".join(characters)
        if not space:
            yield at, chunk
        at += len(chunk)
