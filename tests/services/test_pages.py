"""Pages show how things stand, and no name or text becomes markup."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient

from stt.jobs import lifecycle, lookup
from stt.web.pages import home
from tests.support.acting import Actor, segment
from tests.support.pages import EVIL, HTML, audit, get, post

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
