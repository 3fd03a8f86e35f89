"""docker-compose.production.yml keeps its promises: closed to others, limited, secrets in files, in order."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.caddy import CADDY
from tests.support.places import ROOT

TEXT = (ROOT / "docker-compose.production.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ROLES = ("migrate", "web", "worker", "maintenance")
each = pytest.mark.parametrize("name", SERVICES)


def test_the_services_are_there() -> None:
    expected = {*ROLES, "proxy", "postgres", "redis", "backup", "prometheus", "grafana", "filebeat"}
    assert set(SERVICES) == expected
    assert {name for name, one in SERVICES.items() if "profiles" in one} == {"filebeat"}


@each
def test_each_is_limited_and_started_again_and_its_log_is_rotated(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == ("on-failure:5" if name == "migrate" else "unless-stopped")
    assert {"cpus", "memory"} == set(service["deploy"]["resources"]["limits"])
    assert service["logging"]["driver"] == "json-file"
    assert {"max-size", "max-file"} == set(service["logging"]["options"])
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", [*ROLES, "proxy", "backup", "prometheus", "grafana"])
def test_these_write_into_their_volumes_only_and_have_no_capabilities(name: str) -> None:
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_only_the_proxy_is_published_and_grafana_on_loopback() -> None:
    ports = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert ports == {"proxy": ["80:80", "443:443", "443:443/udp"], "grafana": ["127.0.0.1:3000:3000"]}


def test_the_servers_are_reached_in_the_network_without_a_way_out_alone() -> None:
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    for name in ("postgres", "redis", "backup", "migrate"):
        assert SERVICES[name]["networks"] == ["backend"], name
    assert "backend" not in SERVICES["proxy"]["networks"]
    reached = {name for name, one in SERVICES.items() if "edge" in one["networks"]}
    assert reached == {"proxy", "web"}


@each
def test_no_password_is_in_an_environment_or_a_command(name: str) -> None:
    for key, value in (SERVICES[name].get("environment") or {}).items():
        if re.search("PASSWORD|DATABASE_URL|REDIS_URL", key):
            assert key.endswith("_FILE"), key
            assert str(value).startswith("/run/secrets/"), key
    assert "--requirepass" not in str(SERVICES[name].get("command"))


@each
def test_the_secrets_of_a_service_are_defined_and_used(name: str) -> None:
    secrets = SERVICES[name].get("secrets", [])
    assert set(secrets) <= set(COMPOSE["secrets"])
    used = re.findall(r"/run/secrets/(\w+)", str(SERVICES[name]))
    assert set(secrets) == set(used)


def test_git_ignores_the_secrets() -> None:
    for secret in COMPOSE["secrets"].values():
        done = subprocess.run(["git", "check-ignore", "--quiet", secret["file"]], cwd=ROOT, check=False)
        assert done.returncode == 0, secret


@each
def test_what_it_mounts_is_there(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", mount).split(":")[0]
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
        elif not source.startswith("/"):
            assert source in COMPOSE["volumes"], source


def test_it_starts_in_order() -> None:
    def waits(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in SERVICES[name]["depends_on"].items()}

    servers = {"postgres": "service_healthy", "redis": "service_healthy"}
    assert waits("migrate") == servers
    for name in ("web", "worker", "maintenance", "backup"):
        assert waits(name) == servers | {"migrate": "service_completed_successfully"}, name
    assert waits("proxy") == {"web": "service_healthy"}


def test_the_web_app_has_longer_to_stop_than_its_uploads_have_to_end() -> None:
    default = 25  # STT_SHUTDOWN_SECONDS
    assert "STT_SHUTDOWN_SECONDS" not in TEXT
    assert int(SERVICES["web"]["stop_grace_period"].removesuffix("s")) > default + 5


def test_the_caddy_of_the_tests_is_that_of_the_image() -> None:
    tested = subprocess.run([CADDY, "version"], capture_output=True, text=True, check=True).stdout.split()[0]
    image = f"caddy:{tested.removeprefix('v')}-alpine"
    assert SERVICES["proxy"]["image"] == image
    assert image in (ROOT / "deploy" / "secrets.sh").read_text()


def test_the_example_of_the_env_file_names_what_the_compose_file_reads() -> None:
    lines = (ROOT / "deploy" / "production.env").read_text().splitlines()
    named = {line.lstrip("#").partition("=")[0] for line in lines if re.match(r"#?[A-Z_]+=", line)}
    read = set(re.findall(r"\$\{(\w+):", TEXT))
    assert named <= read
    assert set(re.findall(r"\$\{(\w+):\?", TEXT)) <= named


def test_the_upload_limit_of_the_proxy_is_that_of_the_web_app() -> None:
    caddyfile = Path(ROOT / "deploy" / "caddy" / "Caddyfile").read_text()
    assert re.findall(r"max_size \{\$STT_PROXY_MAX_BODY:(\d+)MiB\}", caddyfile) == [str(20 * 1024 + 4)]
