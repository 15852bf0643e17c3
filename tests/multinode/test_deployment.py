"""Tests of the cluster files in configs/cluster: Ray's schema, Kubernetes' schema, and required settings."""

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
    def config(self):
        return yaml.safe_load((CLUSTER / "machines.yaml").read_text())

    def test_ray_accepts_the_file(self, config):
        from ray.autoscaler._private.util import prepare_config, validate_config

        validate_config(prepare_config(config))
        with pytest.raises(Exception, match=r"Additional properties|not allowed"):
            validate_config(prepare_config({**config, "head_start_ray_comands": []}))

    def test_every_node_requires_the_token_and_its_file_is_private(self, config):
        starts = [
            line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line
        ]
        assert len(starts) == 2
        assert all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
        assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]

    def test_rays_temporary_directory_is_shut_to_other_users(self, config):
        starts = [
            line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line
        ]
        assert all(" RAY_TMPDIR=$HOME/.ray/tmp " in line for line in starts)
        assert "mkdir -p ~/.ray/tmp && chmod 700 ~/.ray/tmp" in config["setup_commands"]

    def test_the_dashboard_is_on_the_loopback_and_the_tables_of_the_head_are_on_disk(self, config):
        (head,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
        assert "--dashboard-host=127.0.0.1" in head
        assert "RAY_gcs_storage=rocksdb RAY_gcs_storage_path=" in head

    def test_the_copied_files_exist_in_this_checkout_and_suffice_to_install_it(self, config):
        mounts = config["file_mounts"]
        copied = {target: source for target, source in mounts.items() if target.startswith("~/serket-actors/")}
        assert all((CLUSTER.parents[1] / source).exists() for source in copied.values())
        assert all(target.endswith(f"/{source}") for target, source in copied.items())
        project = tomllib.loads((CLUSTER.parents[1] / "pyproject.toml").read_text())
        setuptools = project["tool"]["setuptools"]
        packages = {name.partition(".")[0] for name in setuptools["packages"]} | {*setuptools["package-dir"].values()}
        files = ["pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]]
        assert {*packages, *files} <= set(copied.values())


# The fields of ray.io/v1 (KubeRay's raycluster_types.go and rayjob_types.go, and its API reference for 1.6) that are
# used here, with their types; other fields are rejected. Pods are validated by Kubernetes' own schema.
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


def schema_errors(value, schema, at=""):
    """Return where `value` does not match the schema."""
    if isinstance(schema, type):
        return [] if isinstance(value, schema) else [f"{at} is {type(value).__name__}"]
    if isinstance(schema, list):
        return [error for n, each in enumerate(value) for error in schema_errors(each, schema[0], f"{at}[{n}]")]
    errors = [f"{at}.{key} is unknown" for key in value if key not in schema]
    errors += [f"{at}.{key} is missing" for key in schema if key not in value]
    shared = [key for key in value if key in schema]
    return errors + [error for key in shared for error in schema_errors(value[key], schema[key], f"{at}.{key}")]


KUBERNETES = "1.33"


def groups_of(job):
    spec = job["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pod(template):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}


class TestKubernetes:
    @pytest.fixture
    def job(self):
        return yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())

    def test_the_file_has_the_fields_of_a_rayjob(self, job):
        assert schema_errors(job, RAYJOB) == []
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
        assert schema_errors({**job, "spec": {**job["spec"], "entripoint": ""}}, RAYJOB) == [
            ".spec.entripoint is unknown"
        ]

    def test_the_cluster_requires_a_token_and_survives_its_head(self, job):
        spec = job["spec"]["rayClusterSpec"]
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["gcsFaultToleranceOptions"]["redisAddress"]
        assert "secretKeyRef" in spec["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]

    def test_kubernetes_accepts_the_pods(self, job):
        for group in groups_of(job):
            kubernetes_validate.validate(pod(group["template"]), KUBERNETES, strict=True)
            (container,) = group["template"]["spec"]["containers"]
            container["volumeMount"] = container.pop("volumeMounts", [])
            with pytest.raises(kubernetes_validate.ValidationError, match="'volumeMount' was unexpected"):
                kubernetes_validate.validate(pod(group["template"]), KUBERNETES, strict=True)

    def test_rays_temporary_directory_is_shut_to_other_users(self, job):
        assert "mkdir -m 0700 /home/ray/private" in (CLUSTER / "kuberay.yaml").read_text()
        containers = [container for group in groups_of(job) for container in group["template"]["spec"]["containers"]]
        assert all({"name": "RAY_TMPDIR", "value": "/home/ray/private"} in each["env"] for each in containers)

    def test_start_parameters_are_strings_and_containers_have_resource_limits(self, job):
        groups = groups_of(job)
        assert all(isinstance(value, str) for group in groups for value in group["rayStartParams"].values())
        containers = [container for group in groups for container in group["template"]["spec"]["containers"]]
        assert all({"requests", "limits"} <= container["resources"].keys() for container in containers)

    def test_the_version_of_ray_is_the_installed_one(self, job):
        from importlib.metadata import version

        assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")


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
    def test_the_script_is_executable_and_valid(self):
        path = CLUSTER / "slurm.sh"
        assert os.access(path, os.X_OK)
        subprocess.run(["bash", "-n", str(path)], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", str(path)], check=True)

    def test_the_script_starts_ray_with_a_private_token_on_every_node_and_the_run_on_one(self, tmp_path):
        """Uses stand-ins for Slurm's commands, which record how they were called."""
        for name, script in STAND_INS.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
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
        assert "RAY_TMPDIR=$(mktemp -d /tmp/serket-XXXXXX)" in started
        assert "exec serket run" in command
        assert command.endswith(" model.yaml --address node1:6379 --set cluster.nodes=2 --set seed=1\n")
        assert (tmp_path / "mode").read_text().strip() == "600"
        assert (tmp_path / "size").read_text().strip() == "64"
        assert not list((tmp_path / ".ray").iterdir())
