"""The container recipe and the Kubernetes example say to lfsfs what it understands."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lfsfs.cli.main import parser
from lfsfs.config_file import configure

CONTAINERS = Path(__file__).parents[1] / "containers"
DOCKERFILE = (CONTAINERS / "Dockerfile").read_text()
RESOURCES: list[dict[str, Any]] = list(yaml.safe_load_all((CONTAINERS / "kubernetes.yaml").read_text()))


def named(kind: str) -> dict[str, Any]:
    (found,) = (resource for resource in RESOURCES if resource["kind"] == kind)
    return found


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Those that run lfsfs, each with its pod."""
    for resource in RESOURCES:
        pod = resource["spec"].get("template", {}).get("spec") if "spec" in resource else None
        for container in pod["containers"] if pod else ():
            yield pod, container


def test_the_command_of_the_image_is_one_that_lfsfs_takes() -> None:
    command = json.loads(re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[-1])
    found = parser(command).parse_args(command)
    assert (found.foreground, found.allow_other, str(found.mountpoint)) == (True, True, "/mnt")
    assert re.search(r'^ENTRYPOINT \["tini", "--", "lfsfs"\]$', DOCKERFILE, re.MULTILINE)
    health = json.loads(re.findall(r"CMD (\[\"lfsfs\".*)$", DOCKERFILE, re.MULTILINE)[0])
    assert parser(health[1:]).parse_args(health[1:]).store is not None


@pytest.mark.parametrize(("file", "mounting"), [("mount.toml", True), ("serve.toml", False)])
def test_the_configuration_in_the_example_is_understood(file: str, mounting: bool, tmp_path: Path) -> None:
    written = tmp_path / file
    written.write_text(named("ConfigMap")["data"][file])
    config = configure(written, {}, mounting=mounting)
    assert (config.mountpoint is not None, bool(config.server.listen)) == (mounting, not mounting)
    assert config.s3 is not None


def test_each_container_runs_a_command_of_lfsfs_and_mounts_only_volumes_that_are_there() -> None:
    for pod, container in containers():
        assert parser(container["args"]).parse_args(container["args"]).foreground
        volumes = {volume["name"] for volume in pod["volumes"]} | {"store"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert len(list(containers())) == 2


def test_the_mount_is_seen_outside_its_container_and_by_the_pod_that_uses_it(tmp_path: Path) -> None:
    pod, container = next(pair for pair in containers() if "mount" in pair[1]["args"])
    (shared,) = (mount for mount in container["volumeMounts"] if "mountPropagation" in mount)
    assert (shared["mountPropagation"], container["securityContext"]["privileged"]) == ("Bidirectional", True)
    host = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in pod["volumes"]}[
        shared["name"]
    ]
    user = named("Pod")["spec"]
    assert user["volumes"][0]["hostPath"]["path"] == host
    assert user["containers"][0]["volumeMounts"][0]["mountPropagation"] == "HostToContainer"
    (tmp_path / "mount.toml").write_text(named("ConfigMap")["data"]["mount.toml"])
    mountpoint = configure(tmp_path / "mount.toml", {}).mountpoint
    assert mountpoint is not None
    assert str(mountpoint.parent) == shared["mountPath"]
