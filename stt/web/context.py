"""What the views find in the application: one typed key for each shared object."""

from __future__ import annotations

import asyncio

from aiohttp import web

from stt.jobs.actions import Services
from stt.settings import Settings
from stt.telemetry.health import Health

SETTINGS = web.AppKey("settings", Settings)
SERVICES = web.AppKey("services", Services)
HEALTH = web.AppKey("health", Health)
RUNNING: web.AppKey[set[asyncio.Future[None]]] = web.AppKey("running", set)  # a future for each request
