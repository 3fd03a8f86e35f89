"""A transcript written in each format is what other programs read back."""

from __future__ import annotations

import io
import json
import re
from itertools import accumulate, pairwise
from typing import Any

import docx
import pysubs2
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from stt.transcript import formats, paragraphs, scripts, subtitles

Segment = dict[str, Any]

SEGMENTS = [
    {"start": 0.0, "end": 1.5, "text": " Hello <b>& goodbye</b>."},
    {"start": 1.5, "end": 3.0, "text": " One\n\ntwo --> three."},
    {"start": 3599.9996, "end": 3602.25, "text": " An hour later."},
]
LONG = (
    " When the sunlight strikes raindrops in the air, they act as a prism and form a rainbow. The rainbow is"
    " a division of white light into many beautiful colours, and these take the shape of a long round arch."
)


def document(*segments: Segment, language: str = "en") -> dict[str, Any]:
    return formats.document(list(segments), language=language, duration=3700.0)


def timed(text: str, start: float = 0.0, pace: float = 0.3, **more: Any) -> Segment:
    """A segment whose words take `pace` seconds each."""
    words = [
        {"word": word, "start": round(start + n * pace, 3), "end": round(start + (n + 0.9) * pace, 3)}
        for n, word in enumerate(text.split())
    ]
    return {"start": start, "end": words[-1]["end"], "text": text, "words": words, **more}


def srt_of(*segments: Segment) -> list[pysubs2.SSAEvent]:
    text = formats.to_srt(document(*segments))
    return list(pysubs2.SSAFile.from_string(text, format_="srt", keep_unknown_html_tags=True))


@pytest.fixture
def transcript() -> dict[str, Any]:
    return document(*SEGMENTS)


def test_srt_is_read_back() -> None:
    cues = srt_of(*SEGMENTS)
    assert [(cue.start, cue.end) for cue in cues] == [(0, 1500), (1500, 3000), (3_600_000, 3_602_250)]
    assert [cue.plaintext for cue in cues][1] == "One two -> three."


def test_vtt_is_read_back(transcript: dict[str, Any]) -> None:
    cues = list(webvtt.from_string(formats.to_vtt(transcript)))
    assert [cue.start for cue in cues] == ["00:00:00.000", "00:00:01.500", "01:00:00.000"]
    assert "&lt;b&gt;&amp; goodbye&lt;/b&gt;" in formats.to_vtt(transcript)


def test_a_long_sentence_is_cut_at_its_clauses_into_cues_of_two_lines() -> None:
    cues = srt_of(timed(LONG))
    lines = [cue.plaintext.split("\n") for cue in cues]
    assert all(len(cue) <= 2 and all(len(line) <= 42 for line in cue) for cue in lines)
    assert sum(cue[-1].endswith((",", ".")) for cue in lines) >= len(lines) - 1
    assert " ".join(" ".join(cue) for cue in lines) == LONG.strip()


def test_a_cue_stays_as_long_as_it_takes_to_read_unless_the_next_one_comes() -> None:
    hurried = {"start": 10.0, "end": 10.2, "text": " Yes."}
    asked = {"start": 10.5, "end": 11.0, "text": " Why would anybody say such a thing?"}
    alone = {"start": 60.0, "end": 60.1, "text": " No."}
    slow = {
        "start": 100.0,
        "end": 130.0,
        "text": " Hm.",
        "words": [{"word": "Hm.", "start": 100, "end": 130}],
    }
    times = [(cue.start, cue.end) for cue in srt_of(hurried, asked, alone, slow)]
    assert times == [(10_000, 10_500), (10_500, 12_250), (60_000, 61_000), (100_000, 107_000)]


def test_a_cue_begins_with_its_first_word() -> None:
    first, *_, last = srt_of(timed(LONG, start=20, pace=0.4))
    assert first.start == 20_000
    spoken = last.plaintext.replace("\n", " ").split()
    assert last.start == round((20 + (len(LONG.split()) - len(spoken)) * 0.4) * 1000)


def test_chinese_is_cut_without_spaces_and_no_line_begins_with_a_mark() -> None:
    text = (
        "广州市房地产中介协会分析,广州市房价走势平稳,成交量有所回升。"
        "市场信心正在逐步恢复,但是仍然存在一定的不确定性。"
    )
    for segment in (
        {"start": 0.0, "end": 14.0, "text": text},
        timed(" ".join(text), pace=0.25) | {"text": text},
    ):
        lines = [line for cue in srt_of(segment) for line in cue.plaintext.split("\n")]
        assert "".join(lines) == text
        assert max(len(line) for line in lines) <= 20
        assert not [line for line in lines if line[0] in "，。,"]  # noqa: RUF001


# Spaces show where a line may end.
PHRASES = {
    "ja": (
        "今日は とても 良い 天気ですので、 みんなで 公園に 行って、 サッカーを したり、 "
        "お弁当を 食べたりして 楽しい 一日を 過ごしました。 明日は 雨が 降るそうですから、 "
        "図書館で 本を 読もうと 思って います。"
    ),
    "ja without marks": (
        "彼は ちょっと 待って くださいと 言った のですが 私は そのまま 電車に 乗って "
        "しまいました ので 連絡が つかなく なって しまった のです"
    ),
    "ja with latin": (
        "新しい iPhone 15を 100円で 買った という 話を 聞いて、 「本当ですか」と 思わず "
        "聞き返して しまいました。"
    ),
    "zh-hans": (
        "今天 早上 北京 下 了 大雨, 很 多 街道 都 积水 了, 人们 出行 很 不 方便, 学校 也 "
        "停课 了, 大家 都 在 家里 等 着 雨 停。"
    ),
    "zh-hant": (
        "今天 早上 臺北 下 了 大雨, 很 多 街道 都 積水 了, 人們 出行 很 不 方便, 學校 也 "
        "停課 了, 大家 都 在 家裡 等 著 雨 停。"
    ),
    "th": (
        "เด็กๆ กำลัง เล่น อยู่ ใน สนาม หญ้า หน้า โรงเรียน ของ เรา ทุก วัน เมื่อ เช้า นี้ ฝน "
        "ตก หนัก ใน กรุงเทพมหานคร และ ถนน หลาย สาย มี น้ำ ท่วม ขัง ทำ ให้ การ จราจร ติด ขัด "
        "เป็น อย่าง มาก"
    ),
}


@pytest.mark.parametrize("by", ["segment", "character"])
@pytest.mark.parametrize("script", PHRASES)
def test_where_no_space_parts_words_a_line_ends_between_them(script: str, by: str) -> None:
    """Whisper times each character of these scripts as if it were a word."""
    marked = PHRASES[script].replace("iPhone 15", "iPhone_15")
    text = marked.replace(" ", "").replace("_", " ")
    ends = {len(part) for part in accumulate(marked.split())}
    segment = {"start": 0.0, "end": len(text) * 0.15, "text": text}
    if by == "character":
        said = enumerate(text)
        segment["words"] = [
            {"word": c, "start": 0.15 * n, "end": 0.15 * n + 0.14} for n, c in said if not c.isspace()
        ]
    lines = [line for cue in srt_of(segment) for line in cue.plaintext.split("\n")]
    assert len(lines) > 2
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(scripts.width(line) <= 42 for line in lines)
    shown = list(accumulate(len("".join(line.split())) for line in lines))
    spaced = {at - text[:at].count(" ") for at in ends}
    assert set(shown) <= spaced, lines


def test_a_word_longer_than_a_line_is_cut_and_no_line_begins_with_a_small_kana() -> None:
    text = "ソフトウェアエンジニアリングマネージャーコミュニケーションプラットフォームショッピングツアー"
    lines = [
        line for cue in srt_of({"start": 0, "end": 9, "text": text}) for line in cue.plaintext.split("\n")
    ]
    assert "".join(lines) == text
    assert all(scripts.width(line) <= 36 and line[0] not in "ェャュョッィァォ" + "ーー" for line in lines)


def _columns(cue: pysubs2.SSAEvent) -> int:
    return sum(map(scripts.width, cue.plaintext.split("\n")))


def test_a_speaker_s_label_is_read_too() -> None:
    for text in ("Yes.", "No, I do not think so.", "Why would anybody say such a thing?", "どうしてですか。"):
        alone = {"start": 0.0, "end": 0.8, "text": f" {text}", "speaker": "SPEAKER_00"}
        (cue,) = srt_of(alone)
        assert _columns(cue) * 1000 / (cue.end - cue.start) <= subtitles.COLUMNS_A_SECOND


def test_labels_are_so_few_that_cues_can_be_read() -> None:
    """Speech that is within the reading speed by itself, and with labels where there is room for them."""
    for pace in (0.32, 0.36, 0.4):
        for words in range(12, 60, 3):
            said = " ".join((LONG * 3).split()[:words])
            cues = srt_of(timed(f" {said}", pace=pace, speaker="SPEAKER_00"))
            fast = [cue for cue in cues if _columns(cue) * 1000 / (cue.end - cue.start) > 21]
            assert not fast, (pace, words, fast)


def test_who_has_no_label_has_the_whole_line() -> None:
    text = "And so my fellow Americans, ask not what"
    named, unnamed = timed(f" {text}", speaker="SPEAKER_00"), timed(f" {text}", 20)
    assert [cue.plaintext.count("\n") for cue in srt_of(named, unnamed)] == [1, 0]


def test_speakers_are_voices_in_vtt_and_stand_before_the_text_in_srt() -> None:
    said = [timed(" Who is there?", speaker="SPEAKER_00"), timed(LONG, 5, speaker="SPEAKER_01")]
    voices = list(webvtt.from_string(formats.to_vtt(document(*said))))
    assert [cue.voice for cue in voices][:2] == ["SPEAKER_00", "SPEAKER_01"]
    assert voices[0].text == "Who is there?"
    cues = srt_of(*said)
    assert cues[0].plaintext == "[SPEAKER_00]: Who is there?"
    assert all(cue.plaintext.startswith("[SPEAKER_01]: ") for cue in cues[1:])
    assert max(len(line) for cue in cues for line in cue.plaintext.split("\n")) <= 42


def test_arabic_keeps_its_direction_behind_a_latin_label() -> None:
    (cue,) = srt_of(timed(" مرحبا بالعالم.", speaker="SPEAKER_00"))
    assert cue.plaintext == "\u200f[SPEAKER_00]: مرحبا بالعالم."


def test_vtt_can_highlight_words() -> None:
    vtt = formats.to_vtt(document(timed(" One & two three.", 1.0)), highlight=True)
    assert "\nOne<00:00:01.300> &amp;<00:00:01.600> two<00:00:01.900> three.\n" in vtt
    assert webvtt.from_string(vtt).captions[0].text == "One &amp; two three."  # it leaves entities
    for cue in re.findall(
        r"(\S+) --> (\S+)\n(.*?)\n\n", formats.to_vtt(document(timed(LONG)), highlight=True), re.S
    ):
        stamps = [cue[0], *re.findall(r"<([\d:.]+)>", cue[2]), cue[1]]
        assert all(before < after for before, after in pairwise(stamps))


def test_txt_begins_a_paragraph_after_a_pause(transcript: dict[str, Any]) -> None:
    assert formats.to_txt(transcript) == ("Hello <b>& goodbye</b>. One two --> three.\n\nAn hour later.\n")


def test_txt_begins_a_paragraph_with_each_speaker() -> None:
    said = [timed(" Who?", speaker="SPEAKER_00"), timed(" Me.", 1, speaker="SPEAKER_01")]
    assert formats.to_txt(document(*said)) == "SPEAKER_00: Who?\n\nSPEAKER_01: Me.\n"


def test_tsv_has_a_row_a_segment(transcript: dict[str, Any]) -> None:
    rows = [row.split("\t") for row in formats.to_tsv(transcript).splitlines()]
    assert rows[0] == ["start", "end", "text"]
    assert rows[2] == ["1500", "3000", "One two --> three."]


def test_tsv_has_a_column_of_speakers_only_where_there_are_some() -> None:
    said = [timed(" Who?", speaker="SPEAKER_00"), timed(" Hm.", 1)]
    rows = [row.split("\t") for row in formats.to_tsv(document(*said)).splitlines()]
    assert rows == [
        ["start", "end", "text", "speaker"],
        ["0", "270", "Who?", "SPEAKER_00"],
        ["1000", "1270", "Hm.", ""],
    ]


def test_json_is_whisperx_shape(transcript: dict[str, Any]) -> None:
    read = json.loads(formats.to_json(transcript))
    assert set(read) == {"text", "language", "duration", "segments"}
    assert read["segments"][0] == {"id": 0, "start": 0.0, "end": 1.5, "text": "Hello <b>& goodbye</b>."}


def test_docx_has_title_speakers_times_and_text() -> None:
    said = [timed(" Who\x07 is there?", speaker="SPEAKER_00"), timed(" Me.", 65, speaker="SPEAKER_01")]
    made = docx.Document(io.BytesIO(formats.to_docx(document(*said), title="A talk")))
    assert made.core_properties.title == "A talk"
    texts = [paragraph.text for paragraph in made.paragraphs]
    assert texts == [
        "A talk", "English · 1:01:40",
        "Speaker 1  0:00", "Who is there?", "Speaker 2  1:05", "Me.",
    ]  # fmt: skip
    assert made.paragraphs[0].style.name == "Title"


def test_docx_writes_hebrew_from_the_right() -> None:
    made = docx.Document(io.BytesIO(formats.to_docx(document(timed(" שלום לכולם."), language="he"))))
    said = made.paragraphs[-1]
    assert said.text == "שלום לכולם."
    assert said._p.pPr.find(docx.oxml.ns.qn("w:bidi")) is not None
    assert said.runs[0].font.rtl


def test_scripts_without_spaces_are_joined_without() -> None:
    chinese = [{"text": "广州市"}, {"text": "房地产。"}, {"text": "协会"}]
    assert paragraphs.plain_text(chinese) == "广州市房地产。协会"
    korean = [{"text": "그는"}, {"text": "걸어갔다."}]
    assert paragraphs.plain_text(korean) == "그는 걸어갔다."
    assert paragraphs.plain_text([{"text": "a."}, {"text": " b"}, {"text": "c"}]) == "a. b c"


def test_nothing_said_is_an_empty_file() -> None:
    empty = formats.document([], language=None, duration=4.0)
    assert formats.to_txt(empty) == ""
    assert formats.to_srt(empty) == ""
    assert formats.to_vtt(empty) == "WEBVTT\n\n"
    assert docx.Document(io.BytesIO(formats.to_docx(empty))).paragraphs[-1].text == "0:04"


_letters = st.characters(codec="utf-8", categories=("L", "N", "P", "Mn"))
_word = st.text(_letters, min_size=1, max_size=12) | st.sampled_from(
    ["a" * 60, "你好。", "สวัสดีครับ", "e.g.", "«oui»", "3.5", "مرحبا", "-->", "--->", "-"]
)
_said = st.lists(_word, min_size=1, max_size=60)
_gap = st.floats(-0.5, 4, allow_nan=False)


@st.composite
def _segment(draw: st.DrawFn, start: float) -> Segment:
    """What an engine, another program or an editor may have written: also times that make no sense."""
    words = draw(_said)
    glue = draw(st.sampled_from([" ", " ", ""]))
    text = glue.join(["", *words])
    clock, listed = start, []
    for word in words:
        first = clock + draw(_gap) * 0.2
        clock = max(clock, first) + draw(st.floats(0, 1.2))
        listed.append({"word": word} | ({"start": first, "end": clock} if draw(st.integers(0, 9)) else {}))
    end = clock + draw(_gap)
    return {"start": start, "end": end, "text": text, "words": listed if draw(st.booleans()) else []}


@st.composite
def _segments(draw: st.DrawFn) -> list[Segment]:
    made: list[Segment] = []
    for _ in range(draw(st.integers(1, 4))):
        begin = max(0.0, made[-1]["end"] + draw(_gap)) if made else draw(st.floats(0, 1e5))
        made.append(draw(_segment(begin)))
    return made


def _bare(text: str) -> str:
    return "".join(text.split())


@given(_segments(), st.sampled_from([0, 14]))
def test_cues_lose_no_word_never_overlap_and_keep_to_their_lines(segments: list[Segment], label: int) -> None:
    cues = subtitles.cues(segments, label=label)
    shown = "".join("".join(text.split()) for cue in cues for text in cue.texts)
    assert shown == "".join(_bare(segment["text"]) for segment in segments)
    assert all(cue.start < cue.end <= cue.start + subtitles.LONGEST for cue in cues)
    assert all(before.end <= after.start for before, after in pairwise(cues))
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        for line in cue.lines:
            width = scripts.width("".join(piece.text for piece in line).strip())
            assert width <= subtitles.COLUMNS or len(line) == 1


@given(_segments())
def test_what_is_written_is_read_back_whole(segments: list[Segment]) -> None:
    made = document(*segments)
    cues = subtitles.cues(made["segments"])
    read = list(webvtt.from_string(formats.to_vtt(made)))
    assert [(cue.start, cue.end) for cue in read] == [
        (formats._time(cue.start, "."), formats._time(cue.end, ".")) for cue in cues
    ]
    blocks = formats.to_srt(made).split("\n\n")[:-1]
    shown = [[re.sub("--+>", "->", text) for text in cue.texts] for cue in cues]
    assert [block.split("\n")[2:] for block in blocks] == shown
