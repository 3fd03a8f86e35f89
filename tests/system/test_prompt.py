"""What somebody writes into a prompt is text to the model, whatever it looks like. The tokenizer is real."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faster_whisper.transcribe import WhisperModel
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from stt.models import BUNDLES, bundle_parts
from workers.engine.hypothesis import DecodingOptions
from workers.engine.recognise import Recogniser
from workers.engine.window_model import PROMPT_TOKENS

pytestmark = pytest.mark.skipif(
    not bundle_parts(BUNDLES["base"]), reason="the packages of the model base are not installed"
)
TIME_STAMPS = [f"<|{number * 0.02:.2f}|>" for number in range(1501)]


class Prompting(Recogniser):
    """A recogniser of which only the tokenizer is real."""

    def __init__(self, tokenizer: Tokenizer, *, multilingual: bool = True) -> None:
        prompt = SimpleNamespace(max_length=448)
        self.model = cast(
            Any,
            SimpleNamespace(
                hf_tokenizer=tokenizer,
                model=SimpleNamespace(is_multilingual=multilingual),
                get_prompt=lambda *args, **more: WhisperModel.get_prompt(prompt, *args, **more),
            ),
        )

    def prompt(self, prompt: str | None = None, hotwords: str | None = None) -> list[int]:
        decoding = DecodingOptions("en", "transcribe", prompt, hotwords, False, False, False)
        return self._prompt(decoding, self.tokenizer_for("en", "transcribe"))


def _tokenizer() -> Tokenizer:
    [first, _] = bundle_parts(BUNDLES["base"])
    return Tokenizer.from_file(str(Path(first).parent / "tokenizer.json"))


def _with_time_stamps() -> Tokenizer:
    """As the tokenizers of the large models: time stamps are added tokens, but no special ones."""
    tokenizer = _tokenizer()
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in TIME_STAMPS])
    return tokenizer


BASE, STAMPED = Prompting(_tokenizer()), Prompting(_with_time_stamps())
ENGLISH = Prompting(_tokenizer(), multilingual=False)
RECOGNISERS = pytest.mark.parametrize("recogniser", [BASE, STAMPED, ENGLISH], ids=["base", "stamped", "en"])


def control(recogniser: Prompting, prompt: list[int]) -> list[int]:
    return [token for token in prompt if token >= recogniser.model.hf_tokenizer.token_to_id("<|endoftext|>")]


def names(recogniser: Prompting) -> list[str]:
    return [token.content for token in recogniser.model.hf_tokenizer.get_added_tokens_decoder().values()]


@RECOGNISERS
@pytest.mark.parametrize("field", ["prompt", "hotwords"])
def test_no_control_token_comes_from_a_prompt(recogniser: Prompting, field: str) -> None:
    own = control(recogniser, recogniser.prompt(**{field: "Americans"}))
    for name in names(recogniser):
        for text in (name, f"{name} Americans", f"my{name}{name}fellow", f"<{name}>", f"<|{name}en|>"):
            prompt = recogniser.prompt(**{field: text})
            assert control(recogniser, prompt) == own, text
            # Nothing is dropped: it is all there, spelled out.
            assert text in recogniser.model.hf_tokenizer.decode(prompt)


@given(st.lists(st.sampled_from(["<|", "|>", "en", "endoftext", "<", ">", "0.00", " ", "é", "\u200d"])))
def test_no_text_however_put_together_is_a_control_token(parts: list[str]) -> None:
    text = "".join(["a", *parts])
    for recogniser in (BASE, STAMPED):
        own = control(recogniser, recogniser.prompt("a"))
        assert control(recogniser, recogniser.prompt(text)) == own


def test_ordinary_text_is_encoded_as_ever() -> None:
    for text in (
        "Quilter, John F. Kennedy",
        "a < b | c > d <b>bold</b> <| |>",
        "東京 and Zürich",
        "5,<|x|> 7",
    ):
        plain = BASE.model.hf_tokenizer.encode(" " + text, add_special_tokens=False).ids
        prompt = STAMPED.prompt(text)
        assert prompt[1 : 1 + len(plain)] == plain
        assert len(prompt) == len(plain) + len(STAMPED.prompt("a")) - 1


def test_a_long_prompt_keeps_its_end() -> None:
    prompt = BASE.prompt("<|endoftext|> " * 300 + "Magozwe", hotwords="<|en|>" * 300)
    assert len(prompt) <= PROMPT_TOKENS + 5
    assert "Magozwe" in BASE.model.hf_tokenizer.decode(prompt)
