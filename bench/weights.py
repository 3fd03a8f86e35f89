"""A CTranslate2 model of Whisper in the files of its peers, so that all hear with the same weights.

``python bench/weights.py MODEL FOLDER`` reads the folder MODEL (float32 or float16, not quantised) and writes
base.pt (openai-whisper), ggml-f16.bin and ggml-q8_0.bin (whisper.cpp) into FOLDER. Sixteen bits stay the same
bits; q8_0 is rounded as whisper.cpp's own `quantize` does it.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Tensors = dict[str, np.ndarray]

# How CTranslate2 numbers the types of numbers in its files.
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

# Those of ggml: of a tensor, and of a file as a whole (with the version of the way it is quantised).
_F32, _F16, _Q8_0 = 0, 1, 8
_FILE_F16, _FILE_Q8_0 = 1, 2007
_MAGIC = 0x67676D6C
_BLOCK = 32  # numbers that share a scale
# whisper.cpp wants these in 32 bits, whatever the others are in.
_EXACT = (
    "encoder.conv1.bias", "encoder.conv2.bias",
    "encoder.positional_embedding", "decoder.positional_embedding",
)  # fmt: skip


@dataclass(frozen=True)
class Dimensions:
    """The model's measures, named and ordered as openai-whisper and whisper.cpp have them."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int


def read(path: Path) -> Tensors:
    """All variables of a CTranslate2 model.bin by name, those with a second name under both.

    Raises:
        ValueError: it is of another version.
    """
    with path.open("rb") as file:
        version = _number(file)
        if version != 6:
            raise ValueError(f"{path} is of version {version}; this reads version 6")
        _name(file)
        _number(file)  # the revision of the architecture
        found = dict(_variable(file) for _ in range(_number(file)))
        for _ in range(_number(file)):
            second, first = _name(file), _name(file)
            found[second] = found[first]
        return found


def _number(file: BinaryIO, kind: str = "I") -> int:
    return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0])


def _name(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()


def _variable(file: BinaryIO) -> tuple[str, np.ndarray]:
    name = _name(file)
    shape = [_number(file) for _ in range(_number(file, "B"))]
    kind = _TYPES[_number(file, "B")]
    data = np.frombuffer(file.read(_number(file)), kind)
    return name, data.reshape(shape)


def tensors(model: Tensors) -> Tensors:
    """CTranslate2's variables under openai-whisper's names, what was fused taken apart.

    Raises:
        ValueError: the model is quantised.
    """
    if any(name.endswith("weight_scale") for name in model):
        raise ValueError("The model is quantised: its weights are not those of the original any more")
    found = {
        **_named(model, "encoder/conv1", "encoder.conv1"),
        **_named(model, "encoder/conv2", "encoder.conv2"),
        **_named(model, "encoder/layer_norm", "encoder.ln_post"),
        **_named(model, "decoder/layer_norm", "decoder.ln"),
        "encoder.positional_embedding": model["encoder/position_encodings/encodings"],
        "decoder.positional_embedding": model["decoder/position_encodings/encodings"],
        "decoder.token_embedding.weight": model["decoder/embeddings/weight"],
    }
    for side in ("encoder", "decoder"):
        for number in range(_layers(model, side)):
            found |= _layer(model, f"{side}/layer_{number}", f"{side}.blocks.{number}")
    return found


def _layers(model: Tensors, side: str) -> int:
    return sum(name.startswith(f"{side}/layer_") and name.endswith("ffn/linear_0/bias") for name in model)


def _layer(model: Tensors, theirs: str, ours: str) -> Tensors:
    found = {
        **_named(model, f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln"),
        **_taken_apart(model, f"{theirs}/self_attention/linear_0", f"{ours}.attn", ("query", "key", "value")),
        **_named(model, f"{theirs}/self_attention/linear_1", f"{ours}.attn.out"),
        **_named(model, f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln"),
        **_named(model, f"{theirs}/ffn/linear_0", f"{ours}.mlp.0"),
        **_named(model, f"{theirs}/ffn/linear_1", f"{ours}.mlp.2"),
    }
    if f"{theirs}/attention/linear_0/weight" in model:
        found |= {
            **_named(model, f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln"),
            **_named(model, f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query"),
            **_taken_apart(model, f"{theirs}/attention/linear_1", f"{ours}.cross_attn", ("key", "value")),
            **_named(model, f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out"),
        }
    return found


def _named(model: Tensors, theirs: str, ours: str) -> Tensors:
    """A layer as it is; normalisation calls its two parts otherwise."""
    parts = {"weight": ("weight", "gamma"), "bias": ("bias", "beta")}
    return {
        f"{ours}.{part}": model[f"{theirs}/{name}"]
        for part, names in parts.items()
        for name in names
        if f"{theirs}/{name}" in model
    }


def _taken_apart(model: Tensors, theirs: str, ours: str, names: tuple[str, ...]) -> Tensors:
    """A fused projection in its parts. Whisper's keys have no bias: CTranslate2 gave them one of zeros."""
    found = {}
    for part in ("weight", "bias"):
        for name, piece in zip(names, np.split(model[f"{theirs}/{part}"], len(names)), strict=True):
            if (name, part) == ("key", "bias"):
                assert not piece.any(), f"{theirs} has a bias of its keys"
            else:
                found[f"{ours}.{name}.{part}"] = piece
    return found


def dimensions(model: Tensors, found: Tensors) -> Dimensions:
    """The model's measures, from the shapes of its tensors."""
    n_audio_state, n_mels, _ = found["encoder.conv1.weight"].shape
    n_vocab, n_text_state = found["decoder.token_embedding.weight"].shape
    return Dimensions(
        n_mels=n_mels,
        n_audio_ctx=len(found["encoder.positional_embedding"]),
        n_audio_state=n_audio_state,
        n_audio_head=int(model["encoder/num_heads"]),
        n_audio_layer=_layers(model, "encoder"),
        n_vocab=n_vocab,
        n_text_ctx=len(found["decoder.positional_embedding"]),
        n_text_state=n_text_state,
        n_text_head=int(model["decoder/num_heads"]),
        n_text_layer=_layers(model, "decoder"),
    )


def write_openai(path: Path, sizes: Dimensions, found: Tensors) -> None:
    """What openai-whisper loads."""
    import torch

    state = {name: torch.from_numpy(data.copy()) for name, data in found.items()}
    torch.save({"dims": asdict(sizes), "model_state_dict": state}, path)


def write_ggml(path: Path, sizes: Dimensions, found: Tensors, words: list[bytes], *, q8_0: bool) -> None:
    """What whisper.cpp loads: measures, mel filters, vocabulary, tensors."""
    with path.open("wb") as file:
        _integers(
            file, _MAGIC, sizes.n_vocab, sizes.n_audio_ctx, sizes.n_audio_state, sizes.n_audio_head,
            sizes.n_audio_layer, sizes.n_text_ctx, sizes.n_text_state, sizes.n_text_head, sizes.n_text_layer,
            sizes.n_mels, _FILE_Q8_0 if q8_0 else _FILE_F16,
        )  # fmt: skip
        filters = _mel_filters(sizes.n_mels)
        _integers(file, *filters.shape)
        file.write(filters.tobytes())
        _integers(file, len(words))
        for word in words:
            _integers(file, len(word))
            file.write(word)
        for name, data in found.items():
            _tensor(file, name, data, q8_0=q8_0)


def _integers(file: BinaryIO, *numbers: int) -> None:
    file.write(struct.pack(f"<{len(numbers)}i", *numbers))


def _tensor(file: BinaryIO, name: str, data: np.ndarray, *, q8_0: bool) -> None:
    kind, encode = _encoding(name, data, q8_0=q8_0)
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        data = data.reshape(-1, 1)  # it is added to a row for each channel
    _integers(file, data.ndim, len(name), kind, *data.shape[::-1])
    file.write(name.encode())
    file.write(encode(data))


def _encoding(name: str, data: np.ndarray, *, q8_0: bool) -> tuple[int, Callable[[np.ndarray], bytes]]:
    if data.ndim < 2 or name in _EXACT:
        return _F32, lambda data: data.astype(np.float32).tobytes()
    if q8_0 and data.ndim == 2:
        return _Q8_0, _quantised
    return _F16, lambda data: data.astype(np.float16).tobytes()


def _quantised(data: np.ndarray) -> bytes:
    """Blocks of 32 numbers: their scale in 16 bits, then each as so many 127ths of the largest."""
    blocks = data.astype(np.float32).reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    made = np.zeros(len(blocks), [("scale", "<f2"), ("numbers", "i1", _BLOCK)])
    made["scale"] = scale[:, 0]
    made["numbers"] = np.trunc(scaled + np.copysign(0.5, scaled))  # halves away from zero, as C rounds
    return made.tobytes()


def _mel_filters(count: int) -> np.ndarray:
    from faster_whisper.feature_extractor import FeatureExtractor

    found: np.ndarray = FeatureExtractor(feature_size=count).mel_filters
    return np.ascontiguousarray(found, "<f4")


def vocabulary(model: Path) -> list[bytes]:
    """The bytes of each token up to the end of text; what comes after it, the peers number by themselves.

    Raises:
        ValueError: the folder has no vocabulary in a form known here.
    """
    if (model / "vocabulary.txt").is_file():
        tokens = (model / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    else:
        tokens = json.loads((model / "vocabulary.json").read_text(encoding="utf-8"))
    byte = {character: number for number, character in _characters()}
    return [
        bytes(byte[character] for character in token) for token in tokens[: tokens.index("<|endoftext|>")]
    ]


def _characters() -> Iterator[tuple[int, str]]:
    """How GPT-2's vocabulary writes bytes: printable ones as they are, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = 0
    for number in range(256):
        yield number, chr(number if number in printable else 256 + others)
        others += number not in printable


def convert(model: Path, folder: Path) -> None:
    """Write the files of all peers for the model in a folder."""
    variables = read(model / "model.bin")
    found = tensors(variables)
    sizes = dimensions(variables, found)
    words = vocabulary(model)
    write_openai(folder / "base.pt", sizes, found)
    write_ggml(folder / "ggml-f16.bin", sizes, found, words, q8_0=False)
    write_ggml(folder / "ggml-q8_0.bin", sizes, found, words, q8_0=True)


def main() -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    convert(given.model, given.folder)


if __name__ == "__main__":
    main()
