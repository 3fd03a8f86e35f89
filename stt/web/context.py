"""What the views find in the application: one typed key for each shared object."""

from __future__ import annotations

import asyncio

import asyncpg
from aiohttp import web
from arq import ArqRedis

from stt.pubsub import Hub
from stt.settings import Settings
from stt.storage import Storage

SETTINGS = web.AppKey("settings", Settings)
POOL: web.AppKey[asyncpg.Pool] = web.AppKey("pool", asyncpg.Pool)
REDIS: web.AppKey[ArqRedis] = web.AppKey("redis", ArqRedis)
HUB = web.AppKey("hub", Hub)
STORAGE = web.AppKey("storage", Storage)
RUNNING: web.AppKey[set[asyncio.Future[None]]] = web.AppKey("running", set)  # an end for each request
