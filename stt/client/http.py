"""HTTP to a service: upload, events, download."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

Show = Callable[[dict[str, Any]], None]
ENDED = {"completed", "failed", "cancelled"}
RECONNECT_SECONDS = 1.0
GIVE_UP_SECONDS = 120.0  # without one answer


class ServiceError(Exception):
    """The service refused, or cannot be reached; the text is a sentence for a person."""


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    id: str
    data: str


class Client:
    """The calls of the HTTP API that `stt transcribe` needs."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def upload(self, name: str, file: Any, fields: Mapping[str, str]) -> dict[str, Any]:
        """Upload a recording as a stream.

        Args:
            name: The file's name.
            file: The file, opened for reading bytes.
            fields: Option fields of the form, such as `model` and `language`.

        Returns:
            The job, as the API shows it.

        Raises:
            ServiceError: the service refused the file.
        """
        form = aiohttp.FormData(dict(fields), quote_fields=False)  # names as browsers send them
        form.add_field("file", file, filename=name, content_type="application/octet-stream")
        async with self._session.post("api/jobs/upload", data=form) as answer:
            await _check(answer)
            job: dict[str, Any] = await answer.json()
            return job

    async def follow(self, job_id: str, show: Show) -> dict[str, Any]:
        """Wait until the job has ended; `show` receives each state before that.

        Returns:
            The ended job, as the API shows it.

        Raises:
            ServiceError: the job is gone, or the service did not answer for two minutes.
        """
        last_id, answered_at = "", time.monotonic()
        while True:
            try:
                async for event in self._events(job_id, last_id):
                    last_id, answered_at = event.id or last_id, time.monotonic()
                    if event.name in ENDED:
                        return dict(json.loads(event.data))
                    if event.name == "deleted":
                        raise ServiceError("the job was deleted")
                    if event.name == "progress":
                        show(json.loads(event.data))
            except (aiohttp.ClientError, TimeoutError, ServiceBusy) as error:
                if time.monotonic() - answered_at > GIVE_UP_SECONDS:
                    raise ServiceError(f"the service does not answer: {error}") from None
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _events(self, job_id: str, last_id: str) -> AsyncIterator[Event]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        async with self._session.get(f"api/jobs/{job_id}/events", headers=headers) as answer:
            await _check(answer)
            async for event in events(answer.content):
                yield event

    async def cancel(self, job_id: str) -> None:
        """Cancel the job; one that has ended meanwhile is left as it is."""
        async with self._session.post(f"api/jobs/{job_id}/cancel") as answer:
            if answer.status != 409:
                await _check(answer)

    async def download(self, job_id: str, name: str) -> bytes:
        async with self._session.get(f"api/jobs/{job_id}/download", params={"format": name}) as answer:
            await _check(answer)
            return await answer.read()


class ServiceBusy(ServiceError):
    """A 5xx: the same call may succeed later."""


async def _check(answer: aiohttp.ClientResponse) -> None:
    """Raise a `ServiceError` with the text of a problem+json answer."""
    if answer.ok:
        return
    text = await answer.text()
    try:
        problem = json.loads(text)
        detail = str(problem.get("detail") or problem["title"])
    except (ValueError, KeyError, AttributeError):  # not from stt: a proxy, another server
        detail = f"{answer.url.host} answered {answer.status} {answer.reason}"
    raise (ServiceBusy if answer.status >= 500 else ServiceError)(detail)


async def events(stream: aiohttp.StreamReader) -> AsyncIterator[Event]:
    """Parse a stream of server-sent events (WHATWG HTML, section 9.2)."""
    name, id_ = "", ""
    data: list[str] = []
    while line := await stream.readline():
        text = line.decode("utf-8").rstrip("\r\n")
        key, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if not text:
            if data:
                yield Event(name or "message", id_, "\n".join(data))
            name, data = "", []
        elif key == "event":
            name = value
        elif key == "id":
            id_ = value
        elif key == "data":
            data.append(value)
