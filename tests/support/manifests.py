"""Kubernetes manifests as `kubectl apply -k` would send them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.places import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("base", "overlays/cpu", "overlays/production")

Manifest = dict[str, Any]


def render(folder: str) -> list[Manifest]:
    """The manifests of a kustomization.

    Args:
        folder: Its path below `deploy/kubernetes`.
    """
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [str(kubectl), "kustomize", str(KUBERNETES / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """`kind/name` of each manifest that starts pods, and the template of its pods."""
    for one in manifests:
        if "template" in one.get("spec", {}):
            yield f"{one['kind']}/{one['metadata']['name']}", one["spec"]["template"]


def environment(manifests: list[Manifest], container: Manifest) -> dict[str, str]:
    """The variables of a container, without those of optional keys of a Secret."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", ()):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        else:
            assert variable["valueFrom"]["secretKeyRef"]["optional"], variable
    return found


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one manifest of this kind and name."""
    [one] = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name]
    return one
