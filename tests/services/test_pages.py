"""Pages say what is so, their streams miss nothing and repeat nothing, and no name or text becomes markup."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from aiohttp import ClientResponse, FormData
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs import actions, lifecycle, lookup, model
from stt.jobs.messages import state
from stt.pubsub import RESYNC
from stt.web import sse
from stt.web.context import SERVICES
from stt.web.pages import home, wording
from tests.support.acting import Actor, segment

HTML = {"Accept": "text/html"}
ENDED_AMONG = lookup.ended_among
EVIL = '<img src=x onerror="alert(1)">.mp3'
Event = tuple[str, str, str | None]


@pytest.fixture
def actor(pool: asyncpg.Pool, redis: ArqRedis) -> Actor:
    return Actor(pool, redis)


async def get(client: TestClient, path: str, status: int = 200, **headers: str) -> str:
    async with client.get(path, headers={**HTML, **headers}) as response:
        assert response.status == status
        assert response.content_type == "text/html"
        return await response.text()


async def post(client: TestClient, path: str, **headers: str) -> ClientResponse:
    response = await client.post(path, headers={**HTML, **headers}, allow_redirects=False)
    await response.read()
    return response


@asynccontextmanager
async def stream(
    client: TestClient, path: str, last: str | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    async with client.get(path, headers={"Last-Event-ID": last} if last else {}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = _events(response)
        async with asyncio.timeout(20):
            yield events
        await events.aclose()


async def _events(response: ClientResponse) -> AsyncIterator[Event]:
    name, data, number = "message", [], None
    async for line in response.content:
        field, _, value = line.decode().rstrip("\r\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            number = value
        elif not field and data:
            yield name, "\n".join(data), number
            name, data, number = "message", [], None


def address(page: str) -> str:
    """Where a page's stream is."""
    found = re.search(r'sse-connect="([^"]+)"', page)
    assert found
    return found[1].replace("&amp;", "&")


class _Audit(HTMLParser):
    """What Content-Security-Policy would refuse, and what a screen reader would miss."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.headings = 0
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.headings += tag == "h1"
        self.images += tag == "img"
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.ids += [value for name, value in attrs if name == "id" and value]


def audit(page: str) -> None:
    seen = _Audit()
    seen.feed(page)
    assert seen.inline == []
    assert seen.images == 0  # we have none: it would come from a name or a text
    assert seen.headings == 1
    assert len(seen.ids) == len(set(seen.ids))


# Pages


async def test_every_page_obeys_the_policy_and_escapes_names_and_texts(
    client: TestClient, actor: Actor
) -> None:
    job = await actor.running(EVIL)
    await actor.say(job, 0, segment(" <script>alert(2)</script> & so on"))
    waiting = await actor.create(EVIL)
    for path in ("/", "/jobs", f"/jobs/{job.id}", f"/jobs/{waiting.id}"):
        audit(await get(client, path))
    await actor.complete(job)
    page = await get(client, f"/jobs/{job.id}")
    audit(page)
    assert "&lt;script&gt;alert(2)&lt;/script&gt; &amp; so on" in page
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;.mp3" in page
    failed = await actor.fail(await actor.claim(), "bad", "<b>It failed.</b>")
    audit(await get(client, f"/jobs/{failed.id}"))
    assert "<b>" not in await get(client, "/")
    response = await post(client, f"/jobs/{failed.id}/delete")
    audit(await response.text())


async def test_streams_escape_names_and_texts(client: TestClient, actor: Actor) -> None:
    job = await actor.running(EVIL)
    async with stream(client, "/stream") as listed, stream(client, f"/jobs/{job.id}/stream") as one:
        received = [(await anext(listed))[1], (await anext(one))[1]]
        await actor.say(job, 0, segment(" <script>alert(2)</script>"))
        received.append((await anext(one))[1])
        await actor.complete(job)
        received += [(await anext(listed))[1], (await anext(one))[1]]
    for fragment in received:
        assert "<img" not in fragment
        assert "<script" not in fragment
    assert any("&lt;script&gt;" in fragment for fragment in received)


async def test_an_unknown_recording_is_a_page_that_says_so(client: TestClient) -> None:
    for path in ("/jobs/nonsense", "/jobs/00000000-0000-0000-0000-000000000000"):
        page = await get(client, path, 404)
        assert "No such recording" in page
        audit(page)
    audit(await get(client, "/nothing/here", 404))


async def test_a_recording_without_speech_says_so(client: TestClient, actor: Actor) -> None:
    job = await actor.complete(await actor.running(), language=None)
    assert "Nobody speaks in this recording" in await get(client, f"/jobs/{job.id}")


async def test_a_failed_recording_tells_why_and_its_code(client: TestClient, actor: Actor) -> None:
    job = await actor.fail(await actor.running(), "no_audio", "It has no sound. Export it again.")
    for path in ("/", f"/jobs/{job.id}"):
        assert "It has no sound. Export it again." in await get(client, path)
    assert "no_audio" in await get(client, f"/jobs/{job.id}")


async def test_a_failed_recording_shows_what_the_engine_said_last(
    client: TestClient, actor: Actor, pool: asyncpg.Pool
) -> None:
    job = await actor.running()
    await lifecycle.fail(pool, job, code="engine_died", message="It was killed.", log="loading\n<cuda> fault")
    page = await get(client, f"/jobs/{job.id}")
    audit(page)
    assert "loading\n&lt;cuda&gt; fault" in page


async def test_a_running_recording_shows_stage_percentage_estimate_and_text(
    client: TestClient, actor: Actor
) -> None:
    job = await actor.beat(await actor.running(), 0.42)
    await actor.say(job, 0, segment(" Known so far."))
    for path in ("/", f"/jobs/{job.id}"):
        page = await get(client, path)
        assert "Transcribing" in page
        assert re.search(r'<progress [^>]*value="42"', page)
        assert "about 30 s left" in page
    assert "Known so far." in page


async def test_a_finished_recording_has_all_downloads_and_opens_no_stream(
    client: TestClient, actor: Actor
) -> None:
    job = await actor.running()
    assert "sse-connect" in await get(client, f"/jobs/{job.id}")
    await actor.say(job, 0, segment(" Hello."))
    await actor.complete(job)
    page = await get(client, f"/jobs/{job.id}")
    assert "sse-connect" not in page
    for name in ("txt", "srt", "vtt", "docx", "json"):
        assert f'href="/api/jobs/{job.id}/download?format={name}"' in page


async def test_text_carries_its_language_and_direction(client: TestClient, actor: Actor) -> None:
    job = await actor.running()
    await actor.say(job, 0, segment("皆さん、"), segment("おはようございます。", 1.2))
    await actor.complete(job, language="ja")
    page = await get(client, f"/jobs/{job.id}")
    assert 'lang="ja"' in page
    assert "皆さん、おはようございます。" in re.sub(r"</?span[^>]*>", "", page)
    assert '<p class="text" dir="auto">' in page


async def test_older_rows_come_as_a_fragment_or_as_a_page(
    client: TestClient, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "ROWS", 2)
    made = [str((await actor.create(publish=False)).id) for _ in range(5)]
    found: list[str] = []
    path: str | None = "/"
    while path:
        html = await get(client, path, **{} if path == "/" else {"HX-Request": "true"})
        found += re.findall(r'id="job-([^"]+)"', html)
        more = re.search(r'hx-get="([^"]+)"', html)
        path = more[1] if more else None
    assert found == made[::-1]
    audit(await get(client, re.search(r'href="(/jobs\?cursor=[^"]+)"', await get(client, "/"))[1]))


# What a person does, without a script


async def test_the_form_uploads_without_a_script(client: TestClient, tone: Path) -> None:
    form = FormData(default_to_multipart=True)
    form.add_field("file", tone.read_bytes(), filename="tone.wav")
    for name in ("language", "hotwords"):
        form.add_field(name, "")
    for name, value in (("model", "base"), ("task", "transcribe"), ("priority", "normal")):
        form.add_field(name, value)
    async with client.post("/upload", data=form, headers=HTML) as response:
        assert [before.status for before in response.history] == [303]
        assert "tone.wav" in await response.text()


async def test_a_refused_form_is_answered_with_a_page(client: TestClient) -> None:
    form = FormData(default_to_multipart=True)
    form.add_field("file", b"This is no recording.", filename="talk.mp3")
    async with client.post("/upload", data=form, headers=HTML) as response:
        assert response.status == 415
        audit(await response.text())


async def test_deleting_without_a_script_asks_first(client: TestClient, actor: Actor) -> None:
    job = await actor.create()
    asked = await post(client, f"/jobs/{job.id}/delete")
    assert asked.status == 200
    assert "Delete this recording?" in await asked.text()
    assert await lookup.get(actor.pool, job.id)
    async with client.post(f"/jobs/{job.id}/delete", data={"sure": "yes"}, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (303, "/")
    assert await lookup.get(actor.pool, job.id) is None


async def test_cancelling_without_a_script_leads_back_to_the_recording(
    client: TestClient, actor: Actor
) -> None:
    job = await actor.create()
    response = await post(client, f"/jobs/{job.id}/cancel")
    assert (response.status, response.headers["Location"]) == (303, f"/jobs/{job.id}")
    assert "This recording was cancelled" in await get(client, f"/jobs/{job.id}")


async def test_what_failed_is_tried_again_from_its_page_and_from_the_list(
    client: TestClient, actor: Actor
) -> None:
    job = await actor.running()
    await actor.fail(job, "engine_died", "The engine was killed.")
    assert f'action="/jobs/{job.id}/retry"' in await get(client, f"/jobs/{job.id}")
    response = await post(client, f"/jobs/{job.id}/retry")
    assert (response.status, response.headers["Location"]) == (303, f"/jobs/{job.id}")
    assert "Waiting" in await get(client, f"/jobs/{job.id}")
    response = await post(client, f"/jobs/{job.id}/retry", **{"HX-Request": "true"})
    assert 'data-status="pending"' in await response.text()


async def test_the_text_of_an_earlier_try_is_shown_where_a_later_one_came_to_nothing(
    client: TestClient, actor: Actor
) -> None:
    running = await actor.running()
    await actor.say(running, 0, segment(" Hello."))
    job = await actor.complete(running)
    assert (await client.post(f"/api/jobs/{job.id}/retry", json={"language": "de"})).status == 200
    await post(client, f"/jobs/{job.id}/cancel")
    page = await get(client, f"/jobs/{job.id}")
    assert "This try was cancelled. The text below is that of the one before." in page
    assert f"/api/jobs/{job.id}/download?format=srt" in page
    assert "data-start=" in page


async def test_a_text_without_its_speakers_can_be_tried_again(
    client: TestClient, actor: Actor, pool: asyncpg.Pool
) -> None:
    job = await actor.complete(await actor.running())
    assert "Try again" not in await get(client, f"/jobs/{job.id}")
    warning = {"code": "speakers_failed", "message": "No speakers."}
    await pool.execute("update jobs set warnings = $1", [warning])
    assert "Try again" in await get(client, f"/jobs/{job.id}")


async def test_what_is_tried_again_by_itself_says_when_and_which_try_that_is(
    client: TestClient, actor: Actor, pool: asyncpg.Pool
) -> None:
    job = await actor.running()
    await lifecycle.retry_later(pool, job, delay=90, code="engine_died", message="The engine was killed.")
    for path in ("/", f"/jobs/{job.id}"):
        assert re.search(r"Retrying <time [^>]+>in \d\d s</time> \(2 of 3\)", await get(client, path))


async def test_cancelling_what_has_ended_shows_how_it_ended(client: TestClient, actor: Actor) -> None:
    job = await actor.complete(await actor.running())
    response = await post(client, f"/jobs/{job.id}/cancel", **{"HX-Request": "true"})
    assert response.status == 200
    assert 'data-status="completed"' in await response.text()


async def test_deleting_twice_is_no_error(client: TestClient, actor: Actor) -> None:
    job = await actor.create()
    for _ in range(2):
        response = await post(client, f"/jobs/{job.id}/delete", **{"HX-Request": "true"})
        assert response.status == 200
        assert f'<li id="job-{job.id}" hx-swap-oob="delete">' in await response.text()


# The list's stream


async def test_the_list_is_not_sent_again_where_nothing_has_changed(client: TestClient, actor: Actor) -> None:
    await actor.create()
    async with stream(client, address(await get(client, "/"))) as events:
        assert await anext(events) == ("update", "", "live")


async def test_what_happened_before_the_stream_was_open_is_made_up_for(
    client: TestClient, actor: Actor
) -> None:
    gone = await actor.create("gone.mp3")
    path = address(await get(client, "/"))
    new = await actor.create("new.mp3")
    await lifecycle.delete(actor.pool, gone.id)
    async with stream(client, path) as events:
        _, fragment, _ = await anext(events)
    assert 'id="jobs"' in fragment
    assert f'id="job-{new.id}"' in fragment
    assert str(gone.id) not in fragment


async def test_a_page_that_was_away_gets_the_list_anew(client: TestClient, actor: Actor) -> None:
    await actor.create()
    path = address(await get(client, "/"))
    async with stream(client, path) as events:
        number = (await anext(events))[2]
    # Even where the list looks as it did at first: in between it may have looked different.
    async with stream(client, path, last=number) as events:
        assert 'id="jobs"' in (await anext(events))[1]


async def test_rows_follow_their_jobs(client: TestClient, actor: Actor) -> None:
    async with stream(client, address(await get(client, "/"))) as events:
        await anext(events)
        job = await actor.create()
        row, state = f'id="job-{job.id}"', f'id="state-{job.id}"'
        _, fragment, _ = await anext(events)
        assert '<ol hx-swap-oob="afterbegin:#jobs">' in fragment
        assert row in fragment
        await actor.claim()
        assert row in (await anext(events))[1]
        await actor.beat(await _again(actor, job), 0.3)
        await anext(events)
        await actor.beat(await _again(actor, job), 0.4)
        _, fragment, _ = await anext(events)
        assert state in fragment  # the bar alone: a click on the row's button must not get lost
        assert row not in fragment
        await actor.complete(await _again(actor, job))
        assert "Done" in (await anext(events))[1]
        await actions.delete(client.app[SERVICES], job.id)
        assert f'{row} hx-swap-oob="delete"' in (await anext(events))[1]


async def test_a_new_job_is_not_put_on_top_of_a_list_that_has_it(client: TestClient, actor: Actor) -> None:
    async with stream(client, "/stream") as events:
        job = await actor.create(publish=False)
        client.app[SERVICES].hub._spread(RESYNC)  # the list that is read now has it
        client.app[SERVICES].hub._spread(state("created", job))
        assert [await anext(events) for _ in range(2)][1][1].count(f'id="job-{job.id}"') == 1
        _, fragment, _ = await anext(events)
        assert f'id="state-{job.id}"' in fragment
        assert "afterbegin" not in fragment


async def _again(actor: Actor, job: model.Job) -> model.Job:
    found = await lookup.get(actor.pool, job.id)
    assert found
    return found


async def test_the_list_is_read_again_after_redis_was_lost(client: TestClient, actor: Actor) -> None:
    async with stream(client, address(await get(client, "/"))) as events:
        await anext(events)
        job = await actor.create(publish=False)
        client.app[SERVICES].hub._spread(RESYNC)
        assert f'id="job-{job.id}"' in (await anext(events))[1]


async def test_ends_whose_messages_were_never_published_are_found_with_one_query(
    client: TestClient, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []

    async def ended_among(pool: asyncpg.Pool, ids: set[UUID]) -> list[model.Job]:
        found = await ENDED_AMONG(pool, ids)
        searches.append(found)
        return found

    async def get_one(*_: object, **__: object) -> None:
        raise AssertionError("a query for one job")

    running = [await actor.running() for _ in range(3)]
    monkeypatch.setattr(sse, "LISTEN_SECONDS", 0.2)
    monkeypatch.setattr(lookup, "ended_among", ended_among)
    async with stream(client, address(await get(client, "/"))) as events:
        await anext(events)
        for job in running[:2]:
            await actor.complete(job, publish=False)
        monkeypatch.setattr(lookup, "get", get_one)
        received = [(await anext(events))[1] for _ in range(2)]
    for job, fragment in zip(running[:2], received, strict=True):
        assert f'id="job-{job.id}"' in fragment
    assert sum(len(found) for found in searches) == 2


# A recording's stream


def texts(fragment: str) -> list[str]:
    return [text.strip() for text in re.findall(r"<span data-start[^>]*>([^<]*)</span>", fragment)]


async def test_each_segment_arrives_once_however_it_got_known(client: TestClient, actor: Actor) -> None:
    job = await actor.running()
    await actor.say(job, 0, segment(" On the page."))
    path = address(await get(client, f"/jobs/{job.id}"))
    await actor.say(job, 1, segment(" Before the stream."))
    async with stream(client, path) as events:
        received = texts((await anext(events))[1])
        await actor.say(job, 2, segment(" Live."))
        received += texts((await anext(events))[1])
        await actor.say(job, 3, segment(" Its message was lost."), publish=False)
        await actor.say(job, 4, segment(" Sent again."))
        received += texts((await anext(events))[1])
    assert received == ["Before the stream.", "Live.", "Its message was lost.", "Sent again."]


async def test_a_reconnect_goes_on_where_the_page_stopped(client: TestClient, actor: Actor) -> None:
    job = await actor.running()
    await actor.say(job, 0, segment(" One."))
    path = address(await get(client, f"/jobs/{job.id}"))
    async with stream(client, path) as events:
        await anext(events)
        await actor.say(job, 1, segment(" Two."))
        _, _, number = await anext(events)
    await actor.say(job, 2, segment(" Three."))
    async with stream(client, path, last=number) as events:
        assert texts((await anext(events))[1]) == ["Three."]


async def test_a_page_that_has_lost_count_is_made_anew(client: TestClient, actor: Actor) -> None:
    job = await actor.running()
    await actor.say(job, 0, segment(" One."))
    for path in (f"/jobs/{job.id}/stream", f"/jobs/{job.id}/stream?from=7"):
        async with stream(client, path) as events:
            _, fragment, _ = await anext(events)
        assert 'id="recording" hx-swap-oob="true"' in fragment
        assert texts(fragment) == ["One."]


async def test_the_end_brings_text_and_downloads_and_closes_the_stream(
    client: TestClient, actor: Actor
) -> None:
    job = await actor.running()
    path = address(await get(client, f"/jobs/{job.id}"))
    async with stream(client, path) as events:
        await anext(events)
        await actor.say(job, 0, segment(" All of it."), publish=False)
        await actor.complete(job)
        received = [event async for event in events]  # ends by itself
    (_, fragment, _), (name, _, number) = received
    assert texts(fragment) == ["All of it."]
    assert "download?format=vtt" in fragment
    assert (name, number) == ("end", "end")
    async with client.get(path, headers={"Last-Event-ID": "end"}) as response:
        assert response.status == 204


async def test_an_end_before_the_stream_was_open_is_sent(client: TestClient, actor: Actor) -> None:
    job = await actor.running()
    path = address(await get(client, f"/jobs/{job.id}"))
    await actor.fail(job, "broken", "The file is broken.")
    async with stream(client, path) as events:
        received = [event async for event in events]
    assert "The file is broken." in received[0][1]
    assert received[-1][0] == "end"


async def test_a_deleted_recording_ends_its_stream(client: TestClient, actor: Actor) -> None:
    job = await actor.create()
    path = address(await get(client, f"/jobs/{job.id}"))
    async with stream(client, path) as events:
        await anext(events)
        await actions.delete(client.app[SERVICES], job.id)
        received = [event async for event in events]
    assert "was deleted" in received[-2][1]
    assert received[-1][0] == "end"
    async with stream(client, path) as events:
        assert "was deleted" in (await anext(events))[1]


# Words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (187_404, "187 kB"),
        (999_999, "1.0 MB"),
        (4_200_000, "4.2 MB"),
        (21_474_836_480, "21 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(count: int, words: str) -> None:
    assert wording.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "a few seconds left"),
        (31.5, "about 30 s left"),
        (58, "about 1 min left"),
        (1800, "about 30 min left"),
        (4800, "about 1 h 20 min left"),
    ],
)
def test_estimates(seconds: float, words: str) -> None:
    assert wording.left(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (40, "in 40 s"),
        (39.2, "in 40 s"),
        (150, "in 2 min"),
        (0, "when a worker is free"),
        (-5, "when a worker is free"),
    ],
)
def test_times_to_come(seconds: float, words: str) -> None:
    now = dt.datetime.now(dt.UTC)
    assert wording.until(now + dt.timedelta(seconds=seconds), now) == words


def test_progress_is_whole_only_at_the_end() -> None:
    assert [wording.percent(part) for part in (0, 0.999, 1)] == [0, 99, 100]


def test_paragraphs_end_at_pauses_at_speakers_and_when_long() -> None:
    said = [
        segment(" One.", 0),
        segment(" Two.", 1.5),
        segment(" After a pause.", 9),
        segment(" Somebody else.", 10, speaker="SPEAKER_01"),
    ]
    numbered = [{"id": number, **item} for number, item in enumerate(said)]
    grouped = wording.paragraphs(numbered)
    assert [p["text"] for p in grouped] == ["One. Two.", "After a pause.", "Somebody else."]
    assert [p["id"] for p in grouped] == [0, 2, 3]
    long = [{"id": n, **segment(" A sentence of some length.", n)} for n in range(40)]
    assert [len(p["text"]) > 400 for p in wording.paragraphs(long)] == [True, True, False]
