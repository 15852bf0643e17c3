"""The files with which people start clusters: Ray's own schema, Kubernetes' fields, and what must not be missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "configs" / "cluster"


class TestMachines:
    @pytest.fixture
    def given(self):
        return yaml.safe_load((CLUSTER / "machines.yaml").read_text())

    def test_ray_accepts_it(self, given):
        from ray.autoscaler._private.util import prepare_config, validate_config

        validate_config(prepare_config(given))
        with pytest.raises(Exception, match=r"Additional properties|not allowed"):
            validate_config(prepare_config({**given, "head_start_ray_comands": []}))

    def test_every_ray_asks_for_the_token_and_its_file_is_private(self, given):
        starts = [
            line for key in ("head", "worker") for line in given[f"{key}_start_ray_commands"] if "ray start" in line
        ]
        assert len(starts) == 2
        assert all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
        assert "chmod 600 ~/.ray/auth_token" in given["setup_commands"]

    def test_the_dashboard_is_on_the_loopback_and_the_heads_tables_are_on_disk(self, given):
        (head,) = [line for line in given["head_start_ray_commands"] if "ray start" in line]
        assert "--dashboard-host=127.0.0.1" in head
        assert "RAY_gcs_storage=rocksdb RAY_gcs_storage_path=" in head

    def test_what_it_copies_is_in_this_checkout_and_enough_to_install_it(self, given):
        copied = {there: here for there, here in given["file_mounts"].items() if there.startswith("~/serket-actors/")}
        assert all((CLUSTER.parents[1] / here).exists() for here in copied.values())
        assert all(there.endswith(f"/{here}") for there, here in copied.items())
        project = tomllib.loads((CLUSTER.parents[1] / "pyproject.toml").read_text())
        packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
        files = ["pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]]
        assert {*packages, *files} <= set(copied.values())


# The fields of ray.io/v1 (KubeRay's raycluster_types.go and rayjob_types.go, and its API reference for 1.6) that are
# used here, with their types; what is not listed is refused. Pods have Kubernetes' own schema.
_POD = {"spec": dict}
_GROUP = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": dict,
    "template": _POD,
}
RAYJOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "submissionMode": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str},
            "gcsFaultToleranceOptions": {"redisAddress": str, "redisPassword": {"valueFrom": dict}},
            "headGroupSpec": {"rayStartParams": dict, "template": _POD},
            "workerGroupSpecs": [_GROUP],
        },
    },
}


def misfits(given, schema, at=""):
    """Return where `given` is not as the schema says."""
    if isinstance(schema, type):
        return [] if isinstance(given, schema) else [f"{at} is {type(given).__name__}"]
    if isinstance(schema, list):
        return [fault for n, each in enumerate(given) for fault in misfits(each, schema[0], f"{at}[{n}]")]
    found = [f"{at}.{key} is unknown" for key in given if key not in schema]
    found += [f"{at}.{key} is missing" for key in schema if key not in given]
    return found + [f for key in given if key in schema for f in misfits(given[key], schema[key], f"{at}.{key}")]


KUBERNETES = "1.33"


def groups_of(job):
    spec = job["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pod(template):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}


class TestKubernetes:
    @pytest.fixture
    def given(self):
        return yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())

    def test_it_has_the_fields_of_a_rayjob(self, given):
        assert misfits(given, RAYJOB) == []
        assert (given["apiVersion"], given["kind"]) == ("ray.io/v1", "RayJob")
        assert misfits({**given, "spec": {**given["spec"], "entripoint": ""}}, RAYJOB) == [
            ".spec.entripoint is unknown"
        ]

    def test_the_cluster_asks_for_a_token_and_outlives_its_head(self, given):
        spec = given["spec"]["rayClusterSpec"]
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["gcsFaultToleranceOptions"]["redisAddress"]
        assert "secretKeyRef" in spec["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]

    def test_its_pods_are_pods(self, given):
        for group in groups_of(given):
            kubernetes_validate.validate(pod(group["template"]), KUBERNETES, strict=True)
            (container,) = group["template"]["spec"]["containers"]
            container["volumeMount"] = container.pop("volumeMounts", [])
            with pytest.raises(kubernetes_validate.ValidationError, match="'volumeMount' was unexpected"):
                kubernetes_validate.validate(pod(group["template"]), KUBERNETES, strict=True)

    def test_start_parameters_are_text_and_containers_say_what_they_need(self, given):
        groups = groups_of(given)
        assert all(isinstance(value, str) for group in groups for value in group["rayStartParams"].values())
        containers = [container for group in groups for container in group["template"]["spec"]["containers"]]
        assert all({"requests", "limits"} <= container["resources"].keys() for container in containers)

    def test_the_ray_is_the_one_that_the_project_asks_for(self, given):
        from importlib.metadata import version

        assert given["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")


STAND_INS = {
    "scontrol": "echo node1; echo node2",
    "srun": """
touch "$HOME/.ray/begun-7"
echo "$@" > called
stat -c %a "$RAY_AUTH_TOKEN_PATH" > mode
wc -c < "$RAY_AUTH_TOKEN_PATH" > size
""",
}


class TestSlurm:
    def test_the_script_is_one(self):
        path = CLUSTER / "slurm.sh"
        assert os.access(path, os.X_OK)
        subprocess.run(["bash", "-n", str(path)], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", str(path)], check=True)

    def test_it_starts_ray_with_a_private_token_on_every_node_and_the_run_on_one(self, tmp_path):
        """With stand-ins for Slurm's and Ray's commands, which write down how they were called."""
        for name, does in STAND_INS.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / name).chmod(0o755)
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_ID": "7",
            "SLURM_NNODES": "2",
            "SLURM_CPUS_PER_TASK": "8",
        }
        subprocess.run(
            ["bash", str(CLUSTER / "slurm.sh"), "model.yaml", "--set", "seed=1"],
            env=environment,
            cwd=tmp_path,
            check=True,
        )
        called = (tmp_path / "called").read_text()
        started, command = called.split(" -- ")
        assert "ray symmetric-run --address node1:6379 --num-cpus 8" in started
        assert not {"--head", "--node-ip-address", "--port", "--block", "--min-nodes"} & set(started.split())
        assert "exec serket run" in command
        assert command.endswith(" model.yaml --address node1:6379 --set cluster.nodes=2 --set seed=1\n")
        assert (tmp_path / "mode").read_text().strip() == "600"
        assert (tmp_path / "size").read_text().strip() == "64"
        assert not list((tmp_path / ".ray").iterdir())
