"""A person at the page: real Chromium, real app; in the last journey also the real worker and model."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient
from arq import ArqRedis
from playwright.async_api import Browser, Locator, Page, Route, async_playwright, expect
from playwright.async_api import TimeoutError as PlaywrightTimeout

from stt.jobs import actions
from stt.web.context import SERVICES
from tests.conftest import Live
from tests.support.acting import Actor, segment

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ASK = "ask what you can do for your country"

expect.set_options(timeout=15_000)

# The SSE extension's note that a stream has ended; it connects again by itself.
LOST = "[object Event]"

Open = Callable[..., Awaitable[Page]]

# What a person drops: a DataTransfer with files, made in the page.
DROP = """files => {
  const transfer = new DataTransfer();
  for (const [name, base64] of files) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  return transfer;
}"""

# Elements that a person who listens to the page, or uses its keyboard, could not make out.
NAMELESS = """() => [...document.querySelectorAll("a, button, input, select, textarea, progress")]
  .filter((element) => element.checkVisibility() || element.type === "file")
  .filter((element) => !(element.ariaLabel || element.textContent.trim() && element.tagName !== "SELECT"
    || element.labels?.length))
  .map((element) => element.outerHTML)"""


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


@asynccontextmanager
async def opening(browser: Browser, base_url: str) -> AsyncIterator[Open]:
    """Opens pages; afterwards none of them has asked another host, logged an error, or shown an alert."""
    wrong: list[str] = []
    contexts = []

    async def open_page(path: str, **options: Any) -> Page:
        context = await browser.new_context(base_url=base_url, **options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda r: r.url.startswith((base_url, "data:", "blob:")) or wrong.append(r.url))
        page.on("console", lambda m: m.type == "error" and m.text != LOST and wrong.append(m.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        await page.goto(path)
        return page

    try:
        yield open_page
    finally:
        for context in contexts:
            await context.close()
    assert wrong == []


@pytest.fixture
async def open_page(browser: Browser, client: TestClient) -> AsyncIterator[Open]:
    async with opening(browser, str(client.make_url("")).rstrip("/")) as opened:
        yield opened


@pytest.fixture
def actor(pool: asyncpg.Pool, redis: ArqRedis) -> Actor:
    return Actor(pool, redis)


@pytest.fixture
def long_tone(tmp_path: Path) -> Path:
    """Thirty seconds of silence, a megabyte: long enough on its way to be watched."""
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(32000 * 30))
    return path


def row(page: Page, name: str) -> Locator:
    return page.locator(".job", has_text=name)


async def connected(page: Page) -> None:
    """The stream has been open: live.js has taken the state off its address."""
    await expect(page.locator("[sse-connect]")).to_have_attribute("sse-connect", re.compile(r"^[^?]+$"))


async def drop(page: Page, *files: tuple[str, bytes]) -> None:
    given = [[name, base64.b64encode(data).decode()] for name, data in files]
    transfer = await page.evaluate_handle(DROP, given)
    for event in ("dragenter", "dragover", "drop"):
        await page.dispatch_event("main", event, {"dataTransfer": transfer})


async def slow(page: Page, bytes_a_second: int) -> None:
    session = await page.context.new_cdp_session(page)
    await session.send("Network.enable")
    await session.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": 0,
            "downloadThroughput": -1,
            "uploadThroughput": bytes_a_second,
        },
    )


# Uploads


async def test_dropped_files_become_rows_without_a_reload(open_page: Open, tone: Path) -> None:
    page = await open_page("/")
    await connected(page)
    await page.evaluate("window.same = true")
    await drop(page, ("one.wav", tone.read_bytes()), ("<b>two.wav", tone.read_bytes()))
    for name in ("one.wav", "<b>two.wav"):
        await expect(row(page, name).locator(".state")).to_have_text("Waiting")
    await expect(page.locator(".sending")).to_have_count(0)
    assert await page.evaluate("window.same")


async def test_an_upload_shows_progress_and_can_be_cancelled(open_page: Open, long_tone: Path) -> None:
    page = await open_page("/")
    await connected(page)
    await slow(page, 200_000)
    await page.set_input_files("#file", long_tone)
    sending = page.locator(".sending")
    await expect(sending.locator(".sending-state")).to_have_text(
        re.compile(r"[1-9]\d?% of 960 kB · \d+ kB/s · .+ left")
    )
    assert 0 < float(await sending.locator("progress").get_attribute("value") or 0) < 100
    await sending.get_by_role("button", name="Cancel: long.wav").click()
    await expect(sending).to_have_count(0)
    await expect(page.get_by_text("Nothing here yet")).to_be_visible()


async def test_leaving_while_uploading_asks_first(open_page: Open, long_tone: Path) -> None:
    page = await open_page("/")
    await slow(page, 50_000)
    await page.set_input_files("#file", long_tone)
    await expect(page.locator(".sending")).to_be_visible()
    async with page.expect_event("dialog") as asked:
        await page.close(run_before_unload=True)
    dialog = await asked.value
    assert dialog.type == "beforeunload"
    await dialog.dismiss()
    await page.get_by_role("button", name="Cancel: long.wav").click()


async def test_at_most_two_uploads_run_at_once(open_page: Open, tone: Path) -> None:
    page = await open_page("/")
    await slow(page, 20_000)
    await drop(page, *((f"{number}.wav", tone.read_bytes()) for number in range(4)))
    await expect(page.get_by_text("waiting")).to_have_count(2)
    await slow(page, -1)
    await expect(page.locator(".job")).to_have_count(4)


async def test_a_refused_file_says_why_and_can_be_dismissed(browser: Browser, client: TestClient) -> None:
    context = await browser.new_context()  # a refusal is an error in the browser's console
    page = await context.new_page()
    await page.goto(str(client.make_url("/")))
    await drop(page, ("notes.mp3", b"These are notes."), ("empty.wav", b""))
    refused = page.locator(".sending", has_text="notes.mp3")
    await expect(refused.locator(".sending-error")).not_to_be_empty()
    await expect(page.locator(".sending", has_text="empty.wav")).to_contain_text("This file is empty.")
    await expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    await refused.get_by_role("button", name="Dismiss").click()
    await expect(refused).to_have_count(0)
    await context.close()


async def test_an_upload_that_broke_off_can_be_tried_again(
    browser: Browser, client: TestClient, tone: Path
) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(str(client.make_url("/")))
    await connected(page)
    await page.route("**/api/jobs/upload", lambda route: route.abort("connectionreset"))
    await page.set_input_files("#file", tone)
    await expect(page.locator(".sending-error")).to_contain_text("The connection broke")
    await page.unroute("**/api/jobs/upload")
    await page.get_by_role("button", name="Try again").click()
    await expect(row(page, "tone.wav")).to_be_visible()
    await context.close()


async def test_chosen_options_are_sent(open_page: Open, tone: Path, client: TestClient) -> None:
    page = await open_page("/")
    await connected(page)
    await page.get_by_text("Options").click()
    await page.get_by_label("Spoken language").select_option(label="German")
    await page.get_by_label("Priority").select_option("high")
    await page.get_by_label("Names and terms").fill("Grüße, Zürich")
    await expect(page.locator("#chosen")).to_have_text("base · German · High priority")
    await page.set_input_files("#file", tone)
    await expect(row(page, "tone.wav")).to_contain_text("high priority")
    async with client.get("/api/jobs") as response:
        [job] = (await response.json())["jobs"]
    assert job["options"] == {"hotwords": "Grüße, Zürich"}
    assert job["priority"] == "high"


async def test_without_a_script_the_form_uploads(open_page: Open, tone: Path) -> None:
    page = await open_page("/", java_script_enabled=False)
    await expect(page.get_by_text("Reload this page")).to_be_visible()
    await page.set_input_files("#file", tone)
    await page.get_by_role("button", name="Upload").click()
    await expect(row(page, "tone.wav")).to_contain_text("Waiting")
    await page.get_by_role("button", name="Cancel tone.wav").click()
    await expect(page.get_by_text("This recording was cancelled")).to_be_visible()
    await page.get_by_role("button", name="Delete tone.wav").click()
    await page.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("Nothing here yet")).to_be_visible()


# The list


async def test_the_list_follows_what_others_do(
    open_page: Open, client: TestClient, actor: Actor, tone: Path
) -> None:
    page = await open_page("/")
    await connected(page)
    form = FormData(quote_fields=False, default_to_multipart=True)
    form.add_field("file", tone.read_bytes(), filename="by curl.wav")
    async with client.post("/api/jobs/upload", data=form) as response:
        assert response.status == 201
    listed = row(page, "by curl.wav")
    await expect(listed.locator(".state")).to_have_text("Waiting")
    job = await actor.beat(await actor.claim(), 0.42)
    await expect(listed.get_by_role("progressbar")).to_have_attribute("value", "42")
    await expect(listed.locator(".state")).to_contain_text("Transcribing")
    await actor.complete(job)
    await expect(listed.get_by_role("link", name="Download the text")).to_be_visible()
    await expect(page.locator("#said")).to_have_text("by curl.wav: Done")
    await actions.delete(client.app[SERVICES], job.id)
    await expect(listed).to_have_count(0)
    await expect(page.get_by_text("Nothing here yet")).to_be_visible()


async def test_a_page_that_lost_touch_catches_up_without_doubles(
    open_page: Open, client: TestClient, actor: Actor
) -> None:
    await actor.create("first.mp3")
    page = await open_page("/")
    await connected(page)
    await actor.create("second.mp3")
    await expect(page.locator(".job")).to_have_count(2)
    client.app[SERVICES].hub.end_listeners()
    await actor.create("third.mp3", publish=False)
    await expect(page.locator(".job")).to_have_count(3)
    await actor.create("fourth.mp3")
    await expect(page.locator(".job-name")).to_have_text(
        ["fourth.mp3", "third.mp3", "second.mp3", "first.mp3"]
    )


async def test_deleting_asks_first_by_name(open_page: Open, actor: Actor) -> None:
    await actor.complete(await actor.running("kept.mp3"))
    await actor.complete(await actor.running("gone.mp3"))
    page = await open_page("/")
    await connected(page)
    delete = page.get_by_role("button", name="Delete gone.mp3")
    await delete.click()
    await expect(page.get_by_role("dialog")).to_contain_text("“gone.mp3”")
    await page.get_by_role("button", name="Keep").click()
    await expect(row(page, "gone.mp3")).to_be_visible()
    await delete.focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(row(page, "gone.mp3")).to_have_count(0)
    await expect(row(page, "kept.mp3")).to_be_visible()


async def test_an_answer_that_the_stream_has_overtaken_is_no_error(open_page: Open, actor: Actor) -> None:
    await actor.complete(await actor.running("gone.mp3"))
    page = await open_page("/")
    await connected(page)

    async def answer_late(route: Route) -> None:
        response = await route.fetch()
        await expect(row(page, "gone.mp3")).to_have_count(0)
        await route.fulfill(response=response)

    await page.route("**/delete", answer_late)
    await page.get_by_role("button", name="Delete gone.mp3").click()
    async with page.expect_event("requestfinished", lambda request: request.url.endswith("/delete")):
        await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(row(page, "gone.mp3")).to_have_count(0)


async def test_cancelling_a_waiting_job_changes_its_row(open_page: Open, actor: Actor) -> None:
    await actor.create()
    page = await open_page("/")
    await page.get_by_role("button", name="Cancel talk.mp3").click()
    await expect(row(page, "talk.mp3").locator(".state")).to_have_text("Cancelled")


async def test_the_keyboard_reaches_the_upload(open_page: Open) -> None:
    page = await open_page("/")
    await page.bring_to_front()  # a browser opens a chooser only for the page that is in front
    for _ in range(3):  # the skip link, the mark, the file field
        await page.keyboard.press("Tab")
    await expect(page.locator("#file")).to_be_focused()
    choosers: list[object] = []
    # On a machine that is busy with something else, Chromium may not count the first press.
    for _ in range(5):
        with suppress(PlaywrightTimeout):
            async with page.expect_file_chooser(timeout=4000) as chooser:
                await page.keyboard.press("Space")
            choosers.append(await chooser.value)
            break
    assert choosers


# One recording


async def test_the_text_appears_while_it_is_transcribed_and_the_end_closes_the_stream(
    open_page: Open, actor: Actor
) -> None:
    job = await actor.running()
    page = await open_page(f"/jobs/{job.id}")
    await connected(page)
    streams: list[str] = []
    page.on("request", lambda request: "/stream" in request.url and streams.append(request.url))
    await expect(page.get_by_text("The text appears here")).to_be_visible()
    await actor.beat(job, 0.5)
    await expect(page).to_have_title("50% · talk.mp3 · stt")
    await expect(page.get_by_role("progressbar")).to_have_attribute("value", "50")
    await actor.say(job, 0, segment(" The first words."))
    await expect(page.locator(".text")).to_have_text(["The first words."])
    await expect(page.get_by_text("The text appears here")).to_be_hidden()
    await actor.say(job, 1, segment(" <script>alert(1)</script>", 1.2), publish=True)
    await expect(page.locator(".text")).to_have_text(["The first words.", "<script>alert(1)</script>"])
    await actor.complete(job)
    await expect(page.locator(".text")).to_have_text(["The first words. <script>alert(1)</script>"])
    await expect(page).to_have_title("talk.mp3 · stt")
    for name in ("txt", "srt", "vtt", "docx", "json"):
        await expect(page.locator(f"#download-{name}")).to_be_visible()
    await expect(page.locator("#said")).to_have_text("Done")
    # If it still wanted the stream, the browser would connect again after two seconds (pages._RECONNECT_MS).
    await page.evaluate("new Promise((done) => setTimeout(done, 3000))")
    assert streams == []


async def test_a_recording_that_fails_while_it_is_watched_says_why(open_page: Open, actor: Actor) -> None:
    job = await actor.running()
    page = await open_page(f"/jobs/{job.id}")
    await actor.fail(job, "broken", "The file is broken after 3 seconds. Copy it again.")
    await expect(page.get_by_text("The file is broken after 3 seconds. Copy it again.")).to_be_visible()
    await expect(page.get_by_role("progressbar")).to_have_count(0)


async def test_the_text_can_be_copied(open_page: Open, actor: Actor) -> None:
    job = await actor.running()
    await actor.say(job, 0, segment(" One."), segment(" After a pause.", 9))
    await actor.complete(job)
    page = await open_page(f"/jobs/{job.id}", permissions=["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy text").click()
    await expect(page.locator("#copy")).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == "One.\n\nAfter a pause."


async def test_deleting_a_recording_on_its_page_leads_to_the_list(open_page: Open, actor: Actor) -> None:
    job = await actor.complete(await actor.running())
    page = await open_page(f"/jobs/{job.id}")
    await page.get_by_role("button", name="Delete talk.mp3").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("Nothing here yet")).to_be_visible()


# Every page


@pytest.fixture
async def every_page(actor: Actor) -> list[str]:
    """Addresses of pages in all states, with awkward names."""
    name = "a-very-long-name-without-any-space-in-it-" * 5 + ".mp3"
    done = await actor.running(name)
    await actor.say(done, 0, segment(" " + "word" * 60), segment(" مرحبا بكم.", 9))
    await actor.complete(done)
    failed = await actor.fail(await actor.running("خطاب.mp3"), "a_code" * 9, "It failed. " * 9)
    running = await actor.beat(await actor.running("東京での会議.m4a"), 0.4)
    waiting = await actor.create("<i>waiting</i>.ogg")
    jobs = (done, failed, running, waiting)
    return ["/", *(f"/jobs/{job.id}" for job in jobs)]


async def test_pages_fit_a_phone(open_page: Open, every_page: list[str]) -> None:
    for path in every_page:
        page = await open_page(path, viewport=PHONE)
        await page.evaluate("document.querySelector('details')?.setAttribute('open', '')")
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


async def test_everything_one_can_use_has_a_name(open_page: Open, every_page: list[str]) -> None:
    for path in every_page:
        page = await open_page(path)
        await page.evaluate("document.querySelector('details')?.setAttribute('open', '')")
        assert await page.evaluate(NAMELESS) == [], path


# All the way


async def test_a_dropped_recording_is_transcribed_and_downloaded(
    browser: Browser, live: Live, shared_audio: Path
) -> None:
    speech = shared_audio / "clips" / "jfk.flac"
    async with opening(browser, live.url) as open_page, asyncio.timeout(180):
        page = await open_page("/")
        await connected(page)
        await drop(page, ("jfk.flac", speech.read_bytes()))
        await row(page, "jfk.flac").first.get_by_role("link", name="jfk.flac", exact=True).click()
        await expect(page.locator(".text")).to_contain_text(ASK, timeout=150_000)
        await expect(page.locator("#download-txt")).to_be_visible(timeout=60_000)
        async with page.expect_download() as started:
            await page.locator("#download-txt").click()
        download = await started.value
        assert download.suggested_filename == "jfk.txt"
        text = Path(await download.path()).read_text(encoding="utf-8")
        assert ASK in re.sub(r"[^a-z ]", "", text.lower())
