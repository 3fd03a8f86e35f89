"""Encodes the prompt and the hotwords of a request, whatever text they hold, without control tokens."""

from __future__ import annotations

import re
from typing import Any

from faster_whisper.tokenizer import Tokenizer


def control_token_names(hf_tokenizer: Any) -> re.Pattern[str]:
    """An empty match where the name of a control token begins, such as `<|endoftext|>`.

    A text that is cut after the first character of each name has no part with such a name. The tokenizer's
    own switch (`encode_special_tokens`) is not enough: time stamps are no special tokens.
    """
    added = hf_tokenizer.get_added_tokens_decoder().values()
    names = "|".join(re.escape(token.content) for token in added)
    return re.compile(f"(?={names})" if names else "(?!)")


def text_tokens(text: str, tokenizer: Tokenizer, control: re.Pattern[str]) -> list[int]:
    """The tokens of a text. The name of a control token in it is encoded as text.

    Args:
        text: A text of the request.
        tokenizer: The tokenizer of the model.
        control: What `control_token_names` gave for it.
    """
    ends = [match.start() + 1 for match in control.finditer(text)]
    parts = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [token for part in parts for token in tokenizer.encode(part) if token < tokenizer.eot]
