"""The manifests, rendered by kustomize: valid, of one piece, and startable by the program as it is."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from stt import __version__
from stt.cli import cli
from stt.settings import Settings, load
from stt.telemetry import metrics
from tests.support.manifests import KUBERNETES, OVERLAYS, Manifest, environment, pod_templates, render
from tests.support.places import ROOT

OURS = re.compile(r"^(registry\.example\.com/)?stt-(web|worker-cuda|worker-cpu):")
CUSTOM = {"ScaledObject", "PodMonitor", "PrometheusRule"}
SERVERS = {"database-url", "redis-url"}  # the keys of the Secret that docs/deployment.md has an operator make
ALL = pytest.mark.parametrize("overlay", OVERLAYS)

render = cache(render)


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [one for one in render(overlay) if one["kind"] in kinds]


def ours(overlay: str) -> list[tuple[str, Manifest, Manifest]]:
    """Name, pod and container of each of our workloads."""
    return [
        (name, template["spec"], container)
        for name, template in pod_templates(render(overlay))
        for container in template["spec"]["containers"]
        if OURS.match(container["image"])
    ]


def is_selected(selector: Manifest, labels: dict[str, str]) -> bool:
    exact = selector.get("matchLabels", {})
    among = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in among)
    return exact.items() <= labels.items() and all(labels.get(one["key"]) in one["values"] for one in among)


def labels_of_pods(overlay: str) -> list[dict[str, str]]:
    return [template["metadata"]["labels"] for _, template in pod_templates(render(overlay))]


def settings_of(overlay: str, container: Manifest, folder: Path) -> Settings:
    """The settings that a container starts with; its secrets are files in `folder`."""
    environ = environment(render(overlay), container)
    for name, value in environ.items():
        if name.startswith("STT_") and name.endswith("_FILE"):
            file = folder / Path(value).name
            file.write_text({"database-url": "postgresql://db/stt", "redis-url": "redis://r"}[file.name])
            environ[name] = str(file)
    return load(environ, Path("/nonexistent"))


@ALL
def test_each_manifest_is_valid_for_its_kind(overlay: str) -> None:
    for manifest in render(overlay):
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, "1.37", strict=True)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "stt"


def test_the_files_keep_the_rules_for_yaml() -> None:
    config = YamlLintConfig(file=str(ROOT / ".yamllint"))
    for file in KUBERNETES.rglob("*.yaml"):
        assert [str(problem) for problem in linter.run(file.read_text(), config, file)] == []


@ALL
def test_each_container_of_ours_runs_a_command_with_settings_that_load(overlay: str, tmp_path: Path) -> None:
    commands = [container["args"][0] for _, _, container in ours(overlay)]
    assert sorted(commands) == ["maintenance", "migrate", "web", "worker"]
    assert set(commands) <= set(cli.commands)
    for name, _, container in ours(overlay):
        fields = {f"STT_{field.upper()}" for field in Settings.model_fields}
        names = {*environment(render(overlay), container), *(one["name"] for one in container.get("env", ()))}
        assert {one.removesuffix("_FILE") for one in names} <= fields, name
        settings = settings_of(overlay, container, tmp_path)
        assert (settings.database_url, settings.redis_url) == ("postgresql://db/stt", "redis://r"), name
        assert settings.log_format == "json", name


@ALL
def test_images_have_exact_tags_and_ours_the_version_of_the_project(overlay: str) -> None:
    for _, template in pod_templates(render(overlay)):
        for container in template["spec"]["containers"]:
            assert re.search(r":\d+\.\d+[\w.-]*$", container["image"])
    images = {container["image"].split("/")[-1] for _, _, container in ours(overlay)}
    worker = "stt-worker-cpu" if overlay == "overlays/cpu" else "stt-worker-cuda"
    assert images == {f"stt-web:{__version__}", f"{worker}:{__version__}"}
    [job] = of_kind(overlay, "Job")
    assert job["metadata"]["name"] == "stt-migrate-" + __version__.replace(".", "-")


@ALL
def test_every_pod_is_confined(overlay: str) -> None:
    for name, template in pod_templates(render(overlay)):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        # Else a Service named stt would set STT_PORT to tcp://….
        assert pod["enableServiceLinks"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
    for name, pod, _ in ours(overlay):
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001, name


@ALL
def test_each_folder_that_a_role_writes_to_is_mounted(overlay: str, tmp_path: Path) -> None:
    for name, _, container in ours(overlay):
        mounted = {one["mountPath"]: one for one in container["volumeMounts"]}
        settings = settings_of(overlay, container, tmp_path)
        assert {"/tmp", "/run/secrets/stt"} <= mounted.keys(), name
        if container["args"] != ["migrate"]:
            assert {str(settings.data_dir), str(settings.storage_dir)} <= mounted.keys(), name
        if container["args"] == ["worker"]:
            assert str(settings.data_folder.models) in mounted, name


@ALL
def test_every_name_that_a_pod_uses_is_there(overlay: str) -> None:
    claims = {one["metadata"]["name"] for one in of_kind(overlay, "PersistentVolumeClaim")}
    accounts = {one["metadata"]["name"] for one in of_kind(overlay, "ServiceAccount")}
    for name, template in pod_templates(render(overlay)):
        pod = template["spec"]
        assert pod["serviceAccountName"] in accounts, name
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
            if "secret" in volume:
                assert volume["secret"]["secretName"] == "stt-servers", name
                keys = {item["key"] for item in volume["secret"].get("items", ())}
                assert keys <= SERVERS | {"postgres-password"}, name
        for container in pod["containers"]:
            ports = {port["name"] for port in container.get("ports", ())}
            probes = [value for key, value in container.items() if key.endswith("Probe")]
            asked = {probe["httpGet"]["port"] for probe in probes if "httpGet" in probe}
            assert asked <= ports, name
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted - volumes.keys() <= {"postgres-data", "redis-data"}, name


@ALL
def test_selectors_find_pods_and_ports(overlay: str) -> None:
    pods = labels_of_pods(overlay)
    ports = {
        port["name"]
        for _, template in pod_templates(render(overlay))
        for container in template["spec"]["containers"]
        for port in container.get("ports", ())
    }
    for one in of_kind(overlay, "Deployment", "StatefulSet"):
        assert is_selected(one["spec"]["selector"], one["spec"]["template"]["metadata"]["labels"])
    for one in of_kind(overlay, "Service"):
        assert [labels for labels in pods if one["spec"]["selector"].items() <= labels.items()]
        assert {port.get("targetPort", port["name"]) for port in one["spec"]["ports"]} <= ports
    for one in of_kind(overlay, "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        selector = one["spec"].get("selector") or one["spec"]["podSelector"]
        assert [labels for labels in pods if is_selected(selector, labels)], one["metadata"]["name"]
    for one in of_kind(overlay, "NetworkPolicy"):
        for rule in one["spec"].get("ingress", ()):
            assert {port["port"] for port in rule["ports"]} <= ports


@ALL
def test_an_autoscaler_has_a_target_that_sets_no_replicas(overlay: str) -> None:
    deployments = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "Deployment")}
    scalers = of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    targets = [scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers]
    assert sorted(targets) == ["stt-web", "stt-worker"][: 1 + (overlay == "overlays/production")]
    for name, spec in deployments.items():
        assert ("replicas" in spec) is (name not in targets), name


@ALL
def test_pods_have_time_to_end_in_order(overlay: str, tmp_path: Path) -> None:
    for name, pod, container in ours(overlay):
        settings = settings_of(overlay, container, tmp_path)
        grace = pod.get("terminationGracePeriodSeconds", 30)
        if container["args"] == ["web"]:
            pause = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
            assert grace >= pause + settings.shutdown_seconds + 10, name
        elif container["args"] == ["worker"]:  # a hand-back waits for PostgreSQL for as long as the lease
            assert grace >= 2 * settings.lease_seconds, name


@ALL
def test_health_and_metrics_are_where_the_program_has_them(overlay: str, tmp_path: Path) -> None:
    for name, _, container in ours(overlay):
        if container["args"] == ["migrate"]:
            continue
        settings = settings_of(overlay, container, tmp_path)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", ports["metrics"]), name
        paths = [
            container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
        ]
        assert paths == ["/health/live", "/health/live", "/health/ready"], name
        if container["args"] == ["web"]:
            assert (settings.host, settings.port) == ("0.0.0.0", ports["http"]), name


def test_without_a_gpu_the_worker_asks_for_none() -> None:
    limits = {
        overlay: next(c for _, _, c in ours(overlay) if c["args"] == ["worker"])["resources"]["limits"]
        for overlay in OVERLAYS
    }
    assert [limits[overlay].get("nvidia.com/gpu") for overlay in OVERLAYS] == [1, None, 1]


def test_the_ingress_leads_to_the_web_app_asks_for_a_password_and_buffers_nothing(tmp_path: Path) -> None:
    [ingress] = of_kind("overlays/production", "Ingress")
    notes = {key.split("/")[1]: value for key, value in ingress["metadata"]["annotations"].items()}
    [web] = [container for _, _, container in ours("overlays/production") if container["args"] == ["web"]]
    settings = settings_of("overlays/production", web, tmp_path)
    [rule], [tls] = ingress["spec"]["rules"], ingress["spec"]["tls"]
    assert rule["host"] in settings.allowed_hosts
    assert [rule["host"]] == tls["hosts"]
    assert (notes["auth-type"], notes["auth-secret"]) == ("basic", "stt-basic-auth")
    assert notes["proxy-request-buffering"] == notes["proxy-buffering"] == "off"
    assert int(notes["proxy-body-size"].removesuffix("g")) * 2**30 > settings.max_upload_bytes
    backend = rule["http"]["paths"][0]["backend"]["service"]
    [service] = of_kind("overlays/production", "Service")
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_workers_are_scaled_on_metrics_that_the_program_has() -> None:
    [scaled] = of_kind("overlays/production", "ScaledObject")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    assert scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"]
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    names = set(re.findall(r"\bstt_\w+", trigger["metadata"]["query"]))
    assert names == {metrics.QUEUE_JOBS.describe()[0].name, metrics.JOBS.describe()[0].name}


def test_prometheus_finds_the_roles_under_the_names_of_the_dashboards() -> None:
    [monitor] = of_kind("overlays/production", "PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    [relabeling] = endpoint["relabelings"]
    found = {
        relabeling["replacement"].replace("$1", labels["app.kubernetes.io/component"])
        for labels in labels_of_pods("overlays/production")
        if is_selected(monitor["spec"]["selector"], labels)
    }
    config: Any = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {one["job_name"] for one in config["scrape_configs"]}
    assert found == {"stt-web", "stt-worker", "stt-maintenance"} <= jobs


def test_the_alert_rules_are_those_of_prometheus() -> None:
    folder = KUBERNETES / "components" / "monitoring"
    made = subprocess.run(["sh", folder / "generate.sh"], capture_output=True, text=True, check=True).stdout
    assert made == (folder / "prometheusrule.yaml").read_text()
    [rule] = of_kind("overlays/production", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
