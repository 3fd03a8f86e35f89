"""The streams of pages miss nothing and repeat nothing, and no name or text becomes markup."""

from __future__ import annotations

import re
from uuid import UUID

import asyncpg
import pytest
from aiohttp.test_utils import TestClient

from stt.jobs import actions, lifecycle, lookup, model
from stt.jobs.messages import state
from stt.pubsub import RESYNC
from stt.web import sse
from stt.web.context import SERVICES
from tests.support.acting import Actor, segment
from tests.support.pages import EVIL, address, get, stream

ENDED_AMONG = lookup.ended_among


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

    async def ended_among(pool: asyncpg.Pool, ids: set[UUID], *, owner: str | None) -> list[model.Job]:
        found = await ENDED_AMONG(pool, ids, owner=owner)
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
