"""What compose files say of each service: command, environment, mounts, secrets, health, time to end."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

import podman_compose
import yaml

from tests.support import dockerfile, manifests
from tests.support.places import ROOT

GRACE = 10.0  # seconds between SIGTERM and SIGKILL where a file names none; Docker's
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SECRETS = "/run/secrets"
_KEYS = ("database-url", "redis-url")  # of the Secret


@dataclass
class Container:
    """One service, as Docker would start it."""

    name: str
    command: list[str]  # with the entrypoint
    environ: dict[str, str]  # with that of the image
    mounts: dict[str, str] = field(default_factory=dict)  # writable folder: name of the volume
    secrets: dict[str, str] = field(default_factory=dict)  # path: name of the secret
    sources: dict[str, str] = field(default_factory=dict)  # path of a file of this repository that is mounted
    health: list[str] = field(default_factory=list)  # a command
    grace: float = GRACE
    after: tuple[str, ...] = ()
    replicas: int = 1
    published: str = ""  # address:port
    probe: str = ""  # port and path that Kubernetes asks for readiness


def compose(*files: str, environ: dict[str, str]) -> list[Container]:
    """The services of compose files that override one another, each after those that it waits for.

    Args:
        files: Their names in the root of the repository.
        environ: The variables that the operator set, for `${NAME}`.

    Raises:
        RuntimeError: A variable that must be set is not.
    """
    merged: dict[str, Any] = {}
    for name in files:
        content = _interpolated(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")), environ)
        podman_compose.rec_merge(merged, podman_compose.normalize(content))
    found = {
        name: _container(name, service)
        for name, service in merged["services"].items()
        if not service.get("profiles")
    }
    order = TopologicalSorter({name: one.after for name, one in found.items()}).static_order()
    return [found[name] for name in order]


def kubernetes(overlay: str) -> list[Container]:
    """The containers of an overlay of deploy/kubernetes: servers, then the migration, then the roles."""
    found = manifests.render(overlay)
    pods = [template for _, template in manifests.pod_templates(found)]
    order = ("postgres", "redis", "migrate", "web", "worker", "maintenance")
    containers = [_of_pod(found, pod) for pod in pods]
    return sorted(containers, key=lambda one: order.index(one.name))


def _of_pod(found: list[dict[str, Any]], pod: dict[str, Any]) -> Container:
    spec = pod["spec"]
    [one] = spec["containers"]
    name = pod["metadata"]["labels"]["app.kubernetes.io/component"]
    target = re.sub(r".*/|:.*", "", one["image"]).removeprefix("stt-")
    image = Image(target) if target not in ("postgres", "redis") else None
    entrypoint = one.get("command") or (image.entrypoint if image else [])
    words = one.get("args") or (image.command if image else [name])
    probe = one.get("readinessProbe", {})
    get = probe.get("httpGet")
    ports = {port["name"]: port["containerPort"] for port in one.get("ports", ())}
    mounts, secrets = _volumes(name, spec.get("volumes", ()), one.get("volumeMounts", ()))
    return Container(
        name=name,
        command=[*entrypoint, *words],
        environ=(image.environ if image else {}) | manifests.environment(found, one),
        mounts=mounts,
        secrets=secrets,
        health=probe.get("exec", {}).get("command", []),
        grace=float(spec.get("terminationGracePeriodSeconds", 30)),
        probe=f"{ports.get(get['port'], get['port'])}{get['path']}" if get else "",
    )


def _volumes(name: str, volumes: Any, places: Any) -> tuple[dict[str, str], dict[str, str]]:
    """The writable folders of a pod with their volumes, and the files of its secrets with their keys."""
    sources = {volume["name"]: volume for volume in volumes}
    mounts: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for place in places:
        volume, path = sources.get(place["name"], {}), place["mountPath"]
        if "secret" in volume:
            items = volume["secret"].get("items") or [{"key": key, "path": key} for key in _KEYS]
            secrets |= {f"{path}/{item['path']}": item["key"] for item in items}
        else:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            mounts[path] = claim or f"{name}-{place['name']}"
    return mounts, secrets


def _interpolated(value: Any, environ: dict[str, str]) -> Any:
    if isinstance(value, str):
        return podman_compose.var_interpolate(value, environ)
    if isinstance(value, dict):
        return {key: _interpolated(one, environ) for key, one in value.items()}
    return [_interpolated(one, environ) for one in value] if isinstance(value, list) else value


def _container(name: str, service: dict[str, Any]) -> Container:
    target = (service.get("build") or {}).get("target")
    image = Image(target) if target else None
    environ = {key: str(value) for key, value in service.get("environment", {}).items() if value is not None}
    check = service.get("healthcheck") or {}
    command = _words(service.get("command")) or (image.command if image else [])
    entrypoint = _words(service.get("entrypoint")) or (image.entrypoint if image else [])
    volumes = [volume.split(":") for volume in service.get("volumes", ())]
    scratch = [path.split(":")[0] for path in _list(service.get("tmpfs"))]
    health = image.health if image and not check else _health(check.get("test", []))
    return Container(
        name=name,
        command=[*entrypoint, *command],
        environ=(image.environ if image else {}) | environ,
        mounts={to: source for source, to, *_ in volumes if not source.startswith(".")}
        | dict.fromkeys(scratch, f"{name}-tmpfs"),
        secrets=dict(_secret(one) for one in service.get("secrets", ())),
        sources={to: source for source, to, *_ in volumes if source.startswith(".")},
        health=[] if check.get("disable") else health,
        grace=_seconds(service.get("stop_grace_period")),
        after=tuple(service.get("depends_on", ())),
        replicas=int(service.get("deploy", {}).get("replicas", 1)),
        published=_published(service.get("ports", ())),
    )


class Image:
    """What a stage of our Dockerfile sets, with the stages below it."""

    def __init__(self, target: str) -> None:
        stages = dockerfile.stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
        self.environ: dict[str, str] = {}
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.health: list[str] = []
        line = [target]
        while stages[line[-1]].base in stages:
            line.append(stages[line[-1]].base)
        for keyword, rest in (step for name in reversed(line) for step in stages[name].steps):
            self._take(keyword, rest)

    def _take(self, keyword: str, rest: str) -> None:
        if keyword == "ENV":
            self.environ |= dockerfile.assignments(rest)
        elif keyword == "ENTRYPOINT":
            self.entrypoint = json.loads(rest)
        elif keyword == "CMD":
            self.command = json.loads(rest)
        elif keyword == "HEALTHCHECK":
            self.health = json.loads(rest.partition("CMD")[2])


def _words(value: Any) -> list[str]:
    return shlex.split(value) if isinstance(value, str) else [str(word) for word in value or ()]


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _secret(value: str | dict[str, str]) -> tuple[str, str]:
    if isinstance(value, str):
        return f"{_SECRETS}/{value}", value
    return f"{_SECRETS}/{value.get('target', value['source'])}", value["source"]


def _health(test: Any) -> list[str]:
    if isinstance(test, str):
        return ["sh", "-c", test]
    kind, *words = test or ["NONE"]
    return {"CMD": words, "CMD-SHELL": ["sh", "-c", *words], "NONE": []}[kind]


def _seconds(text: str | None) -> float:
    """A duration as in `1m30s`."""
    parts = re.findall(r"(\d+)(h|ms|m|s)", text or "")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts) if parts else GRACE


def _published(ports: Any) -> str:
    """The address of the first port that is published, where clients reach it."""
    if not ports:
        return ""
    first = next(iter(ports))
    if isinstance(first, dict):
        return f"{first.get('host_ip', '0.0.0.0')}:{first['published']}"
    return str(first).rpartition(":")[0]
