"""The Dockerfile, the compose files and all other YAML files, checked without Docker."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from stt import settings
from tests.support.dockerfile import assignments, context, copied, ignored, stages
from tests.support.places import ROOT

BIN = Path(sysconfig.get_path("scripts"))
STAGES = stages((ROOT / "Dockerfile").read_text())
TARGETS = ("web", "worker-cpu", "worker-cuda")
COMPOSE = sorted(path.name for path in ROOT.glob("docker-compose*.yml"))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
EXACT_TAG = re.compile(r":v?\d+\.\d+[.\d]*(-[a-z0-9.]+)*$|@sha256:[0-9a-f]{64}$")
PATCH = re.compile(r":v?\d+\.\d+\.\d+|:1[5-9]\.\d+-|@sha256:")  # PostgreSQL's versions have two numbers


def ours(*patterns: str) -> list[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def run(*command: str) -> None:
    command = (str(BIN / command[0]), *command[1:])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def image_stages(target: str) -> list[str]:
    """The target and the stages it is made from, without those that it only copies from."""
    chain = [target]
    while (base := STAGES[chain[-1]].base) in STAGES:
        chain.append(base)
    return chain


def interpolated(value: Any) -> Any:
    """What compose makes of `${NAME:-default}` where nothing is set; a required one gets a value."""
    if isinstance(value, dict):
        return {key: interpolated(one) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one) for one in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", value)
    value = re.sub(r"\$\{\w+:?\?[^}]*\}", "required", value)
    return value.replace("$$", "$")


def services(name: str) -> dict[str, Any]:
    return interpolated(yaml.safe_load((ROOT / name).read_text()))["services"]


def test_hadolint_accepts_the_dockerfile() -> None:
    run("hadolint", "Dockerfile")


def test_yamllint_accepts_all_yaml_files() -> None:
    run("yamllint", "--strict", *ours("*.yml", "*.yaml"))


def test_the_compose_files_follow_the_compose_specification() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE)


def test_every_base_and_service_image_has_an_exact_tag() -> None:
    bases = {stage.base for stage in STAGES.values() if stage.base not in STAGES}
    served = {one["image"] for name in COMPOSE for one in services(name).values() if "image" in one}
    assert bases and served
    loose = {image for image in bases | served if not (EXACT_TAG.search(image) and PATCH.search(image))}
    assert not loose


def test_our_images_carry_the_version_of_the_project() -> None:
    labels = assignments(" ".join(STAGES["runtime"].all("LABEL")))
    assert labels["org.opencontainers.image.version"] == VERSION
    named = {
        one["image"] for name in COMPOSE for one in services(name).values()
        if one.get("image", "").startswith("stt-")
    }  # fmt: skip
    assert named <= {f"stt-{target}:{VERSION}" for target in TARGETS}


def test_what_the_dockerfile_copies_is_in_the_context() -> None:
    sent = {str(file) for file in context(ROOT)}
    for stage in STAGES.values():
        for source, names, _ in map(copied, stage.all("COPY")):
            assert not source or source in STAGES, (stage.name, source)
            for name in names if not source else []:
                assert name in sent or any(file.startswith(f"{name}/") for file in sent), (stage.name, name)


def test_the_context_holds_no_tests_data_or_caches() -> None:
    sent = context(ROOT)
    allowed = {"requirements", "sql", "static", "stt", "templates", "workers"}
    assert {file.parts[0] for file in sent if len(file.parts) > 1} == allowed
    left_out = ("static/vendor/htmx.min.js", "stt/__pycache__/db.pyc", ".venv/bin/python", ".env", "data/x")
    rules = ignored((ROOT / ".dockerignore").read_text())
    assert not [name for name in left_out if not rules.match_file(name)]
    assert sum((ROOT / file).stat().st_size for file in sent) < 5e6


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_of_a_plain_user_and_tells_its_health(target: str) -> None:
    chain = [STAGES[name] for name in image_stages(target)]

    def last(keyword: str) -> str:
        return next(stage.all(keyword)[-1] for stage in chain if stage.all(keyword))

    assert last("USER") == "10001:10001"
    assert last("ENTRYPOINT") == '["stt"]'
    assert last("CMD") == ('["web"]' if target == "web" else '["worker"]')
    assert last("HEALTHCHECK").endswith('CMD ["stt", "health"]')


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_installs_no_debian_package_and_keeps_no_pip(target: str) -> None:
    commands = [line for name in image_stages(target) for line in STAGES[name].all("RUN")]
    assert not [line for line in commands if re.search(r"\bapt|\bapk|\bgcc|build-essential", line)]
    assert any("pip uninstall" in line for line in commands)


def test_packages_come_from_the_locks_and_the_web_image_has_none_of_the_worker() -> None:
    [web] = [copied(line)[0] for line in STAGES["web"].all("COPY") if copied(line)[2] == "/opt/stt"]
    assert web == "web-packages"
    assert STAGES[web].all("RUN")[-1] == "sh requirements/install.sh requirements/web.txt pip"
    names = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "web.txt").read_text(), re.MULTILINE)
    assert "aiohttp" in names
    assert not {"torch", "whisperx", "ctranslate2"} & set(names)


@pytest.mark.parametrize("target", TARGETS)
def test_the_environment_of_an_image_loads_as_settings(target: str) -> None:
    env: dict[str, str] = {}
    for name in reversed(image_stages(target)):
        for line in STAGES[name].all("ENV"):
            env |= assignments(line)
    check_environment(env)


@pytest.mark.parametrize("name", COMPOSE)
def test_the_environment_of_our_services_loads_as_settings(name: str) -> None:
    base = services("docker-compose.yml")
    for service, one in services(name).items():
        given = one.get("environment") or {}
        if isinstance(given, list):
            given = dict(line.split("=", 1) for line in given)
        if one.get("image", base.get(service, {}).get("image", "")).startswith("stt-"):
            check_environment({key: str(value) for key, value in given.items() if value is not None})


def check_environment(env: dict[str, str]) -> None:
    """Every STT_ name is a setting, and the values are accepted; files of secrets are not read."""
    known = {settings.PREFIX + field.upper() for field in settings.Settings.model_fields}
    mine = {key: value for key, value in env.items() if key.startswith(settings.PREFIX)}
    assert {key.removesuffix("_FILE") for key in mine} <= known
    settings.load({k: v for k, v in mine.items() if not k.endswith("_FILE")}, dotenv=Path(os.devnull))


def test_development_services_are_confined_and_start_in_order() -> None:
    found = services("docker-compose.yml")
    assert {"migrate", "web", "worker", "maintenance", "postgres", "redis"} == set(found)
    for role in ("migrate", "web", "worker", "maintenance"):
        one = found[role]
        assert one["read_only"] and one["cap_drop"] == ["ALL"], role
        assert one["security_opt"] == ["no-new-privileges:true"], role
        assert one["build"]["target"] in TARGETS, role
    for role in ("web", "worker", "maintenance"):
        waits = found[role]["depends_on"]
        assert waits["migrate"]["condition"] == "service_completed_successfully", role
        assert waits["redis"]["condition"] == "service_healthy", role
    assert found["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert found["web"]["ports"] == ["127.0.0.1:8000:8000"]
    assert [role for role, one in found.items() if "ports" in one] == ["web"]
