"""The manifests and units of `docs/deploy`: valid by the schemas of Kubernetes, and their commands are those of this version.

The schema of the Flink operator's own resources comes in no package; of them the shape is checked here, and the pod that they
contain by the schema of a Pod.
"""

from __future__ import annotations

import configparser
import copy
import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from citybrain import app
from pipelines.engines import flink_main

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
KUBERNETES = "1.34"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
FLINK_SPEC = {
    "image", "imagePullPolicy", "flinkVersion", "serviceAccount", "flinkConfiguration", "jobManager", "taskManager",
    "podTemplate", "job", "logConfiguration", "ingress", "mode", "restartNonce",
}  # fmt: skip
FLINK_JOB = {"jarURI", "entryClass", "args", "parallelism", "upgradeMode", "state", "initialSavepointPath"}
NOT_YET = {"brain", "ingest"} - set(get_command(app).commands)  # type: ignore[attr-defined]
"""Commands that manifests name and this version does not have."""


def documents() -> list[dict[str, Any]]:
    return [d for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for d in yaml.safe_load_all(path.read_text())]


def flink() -> dict[str, Any]:
    return next(d for d in documents() if d["kind"] == "FlinkDeployment")


def wrong_with(deployment: dict[str, Any]) -> str | None:
    """What is wrong with the shape of a FlinkDeployment."""
    spec = deployment["spec"]
    if unknown := (spec.keys() - FLINK_SPEC) | (spec["job"].keys() - FLINK_JOB):
        return f"unknown {unknown}"
    if not all(isinstance(value, str) for value in spec["flinkConfiguration"].values()):
        return "a value of flinkConfiguration is no text"
    if spec["job"]["upgradeMode"] not in ("savepoint", "last-state", "stateless"):
        return "upgradeMode"
    for part in ("jobManager", "taskManager"):
        if spec[part].keys() - {"replicas", "resource", "podTemplate"} or spec[part]["resource"].keys() != {
            "memory",
            "cpu",
        }:
            return part
    if not all(isinstance(argument, str) for argument in spec["job"]["args"]):
        return "an argument is no text"
    try:
        kubernetes_validate.validate(spec["podTemplate"], KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return None


def test_kubernetes_resources_are_valid() -> None:
    plain = [d for d in documents() if not d["apiVersion"].startswith("flink.apache.org/")]
    for document in plain:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    kinds = [d["kind"] for d in plain]
    assert sorted(set(kinds)) == [
        "Deployment",
        "Namespace",
        "PersistentVolumeClaim",
        "Secret",
        "Service",
        "StatefulSet",
    ]
    assert {d["metadata"].get("namespace") for d in documents() if d["kind"] != "Namespace"} == {"citybrain"}
    brain = next(d for d in plain if d["kind"] == "StatefulSet")
    for change in ({"replicas": "one"}, {"selector": None}, {"replica": 1}):
        broken = copy.deepcopy(brain)
        broken["spec"].update(change)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_one_brain_and_one_writer_of_a_partition() -> None:
    found = {d["metadata"]["name"]: d["spec"] for d in documents() if d["kind"] in ("StatefulSet", "Deployment")}
    assert {spec["replicas"] for spec in found.values()} == {1}
    assert found["citybrain-ingest-link"]["strategy"] == {"type": "Recreate"}


def test_flink_deployment() -> None:
    deployment, version = flink(), importlib.metadata.version("apache-flink")
    assert wrong_with(deployment) is None
    major, minor, _ = version.split(".")
    assert deployment["spec"]["flinkVersion"] == f"v{major}_{minor}"
    job = deployment["spec"]["job"]
    assert job["jarURI"] == f"local:///opt/flink/opt/flink-python-{version}.jar"
    assert f"FROM flink:{version} AS citybrain-flink" in (DEPLOY / "Dockerfile").read_text()
    assert job["args"][:4] == ["-pyclientexec", "/opt/citybrain/bin/python", "-pym", flink_main.__name__]
    given = flink_main.read(job["args"][4:])
    assert given.parallelism == job["parallelism"] and str(given.pack).startswith("/opt/citybrain/cities/")
    slots = int(deployment["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    assert slots * deployment["spec"]["taskManager"]["replicas"] >= job["parallelism"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.jobs", {}),
        ("spec.job.upgradeMode", "stateful"),
        ("spec.job.args", ["--parallelism", 2]),
        ("spec.flinkConfiguration", {"taskmanager.numberOfTaskSlots": 2}),
        ("spec.taskManager.resource", {"memory": "1g"}),
        ("spec.podTemplate.spec.containers", [{"image": "x"}]),
    ],
)
def test_flink_deployment_negative_controls(path: str, value: object) -> None:
    broken = flink()
    *parents, last = path.split(".")
    inner = broken
    for name in parents:
        inner = inner[name]
    inner[last] = value
    assert wrong_with(broken) is not None


def lines_of_units() -> Iterator[list[str]]:
    for path in UNITS:
        for line in re.findall(r"^ExecStart=/opt/citybrain/bin/citybrain (.*)$", path.read_text(), re.M):
            yield line.replace("%i", "link").split()


def commands() -> list[list[str]]:
    """The arguments of `citybrain` in manifests and units."""
    containers = [
        container for d in documents() if d["kind"] in ("StatefulSet", "Deployment")
        for container in d["spec"]["template"]["spec"]["containers"]
    ]  # fmt: skip
    return [*(container["args"] for container in containers), *lines_of_units()]


def understood(arguments: list[str]) -> None:
    """Raises click's error for what the command does not take."""
    command = get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    command.make_context(arguments[0], list(arguments[1:]))


def test_commands_are_those_of_this_version() -> None:
    named = commands()
    for arguments in named:
        if arguments[0] not in NOT_YET:
            understood(arguments)
    print(f"{len(named)} commands, not in this version: {sorted(NOT_YET) or 'none'}")
    assert {arguments[0] for arguments in named} == {"up", "ingest", "brain"}
    with pytest.raises(Exception, match="No such option"):
        understood(["up", "--cities", "demo"])


def test_secrets_stay_out_of_command_lines() -> None:
    for arguments in commands():
        assert not re.search(r"password|:[^/@]+@", " ".join(arguments))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units(path: Path, tmp_path: Path) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(path)
    assert unit.sections() == ["Unit", "Service", "Install"]
    program = unit["Service"]["ExecStart"].split()[0]
    assert program.startswith("/opt/citybrain/") and unit["Service"]["User"] in ("citybrain", "flink")
    if (verify := shutil.which("systemd-analyze")) is None:
        return
    # What the unit names has to exist for the verifier.
    targets = ("multi-user", "network-online", "time-sync", "sysinit", "basic", "shutdown")
    for name, text in {program: "#!/bin/sh\n"} | {
        f"/usr/lib/systemd/system/{t}.target": "[Unit]\nDescription=x\n" for t in targets
    }.items():
        there = tmp_path / name.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text)
        there.chmod(0o755 if name == program else 0o644)
    place = tmp_path / "etc/systemd/system" / path.name
    place.parent.mkdir(parents=True)
    command = [verify, "verify", f"--root={tmp_path}", "--man=no", path.name.replace("@.", "@link.")]
    for text, complaint in (
        (path.read_text(), ""),
        (path.read_text().replace("Restart=", "Restarts="), "Unknown key 'Restarts'"),
    ):
        place.write_text(text)
        said = subprocess.run(command, capture_output=True, text=True, timeout=30).stderr
        assert complaint in said and bool(said) is bool(complaint), said
