"""Tests of groups whose workers find no room, without a cluster: which of them go on, and how long is waited."""

from dataclasses import replace

import pytest

from actors.backends.ray import backend as ray_backend
from actors.backends.ray.groups import RayGroup
from actors.coordination.events import ModulePlaced
from actors.coordination.placement import Bundle, Node
from actors.coordination.recovery import RecoveryPolicy
from actors.errors import ModuleFailedError
from actors.graph.spec import Resources, Sharing
from actors.limits import STATUS_SECONDS
from tests.actors.backends.test_shared_modules import graph


class Cluster:
    """A backend with the workers of one module, on two nodes of two cores; what Ray would do is set by a test."""

    def __init__(self, monkeypatch, workers, nodes, *, cores=0.0):
        self.alive, self.killed, self.waited, self.log = {"a", "b"}, [], [], []
        self.without_room = set()
        model = graph(1)
        spec = model.modules["kmeans"]
        model.modules["kmeans"] = replace(spec, sharing=Sharing(workers, 10), resources=Resources(num_cpus=cores))
        self.backend = ray_backend.RayBackend("test", recovery=RecoveryPolicy(wait=9.0), log=self.log.append)
        self.backend._graph = model
        self.backend._groups["kmeans"] = RayGroup(self.backend, model.modules["kmeans"], (), len(nodes))
        self.names = list(self.backend._groups["kmeans"].names)
        for name, node in zip(self.names, nodes, strict=True):
            self.backend._actors[name] = f"actor of {name}"
            self.backend._places[name] = ModulePlaced("kmeans", node, 1, "cpu", incarnation=name, node_id=node)
            self.backend._prepared[name] = None
            self.backend._specs[name], self.backend._gpus[name] = model.modules["kmeans"], 0.0
            self.backend._bundles[name] = Bundle((name,), {"CPU": cores} if cores else {})
        monkeypatch.setattr(ray_backend.ray, "kill", self.killed.append)
        monkeypatch.setattr(ray_backend, "nodes", lambda **_: self.nodes)
        monkeypatch.setattr(ray_backend, "alive_nodes", lambda: {name: {} for name in self.alive})
        monkeypatch.setattr(self.backend, "_is_gone", lambda name: self.backend._places[name].node_id not in self.alive)
        monkeypatch.setattr(self.backend, "_restart_worker", self.restart_worker)

    @property
    def nodes(self):
        return [Node(name, {"CPU": 2.0}, {"CPU": 0.0}, id=name) for name in sorted(self.alive)]

    @property
    def workers(self):
        return self.backend._groups["kmeans"].names

    def restart_worker(self, name, patience=None):
        self.waited.append(patience)
        if name in self.without_room:
            raise ray_backend._NoProcessError(f"{name} has no process")
        self.backend._places[name] = replace(self.backend._places[name], node_id="a", incarnation=f"new {name}")
        return self.backend._places[name]

    def lose(self, node, *without_room):
        self.alive.discard(node)
        self.without_room = set(without_room)
        return self.backend.restart("kmeans")


def test_workers_that_have_room_are_all_started_again(monkeypatch):
    cluster = Cluster(monkeypatch, 4, "aabb")
    assert cluster.lose("b").module == "kmeans#2"
    assert (cluster.workers, cluster.killed, cluster.log) == (cluster.names, [], [])


def test_workers_without_room_are_left_out_after_one_wait(monkeypatch):
    cluster = Cluster(monkeypatch, 4, "aabb", cores=1.0)
    cluster.lose("b", "kmeans#2", "kmeans#3")
    assert cluster.workers == ["kmeans", "kmeans#1"]
    assert cluster.killed == ["actor of kmeans#2", "actor of kmeans#3"]
    assert cluster.waited == [9.0, STATUS_SECONDS]
    assert cluster.log == [
        "kmeans: goes on with 2 workers: module 'kmeans#2' asks for 1 CPU, and no node has that free: a has 0 CPU left"
    ]
    assert cluster.backend._places.keys() == cluster.backend._actors.keys() == {"kmeans", "kmeans#1"}


def test_other_groups_of_a_lost_node_do_not_wait_again(monkeypatch):
    cluster = Cluster(monkeypatch, 4, "aabb", cores=1.0)
    cluster.backend._unreplaced.add("b")
    cluster.lose("b", "kmeans#2", "kmeans#3")
    assert cluster.waited == [STATUS_SECONDS] * 2


def test_a_worker_takes_the_place_of_the_first_one(monkeypatch):
    cluster = Cluster(monkeypatch, 3, "bab", cores=1.0)
    cluster.lose("b", "kmeans", "kmeans#2")
    assert cluster.workers == ["kmeans"]
    assert cluster.backend.actor("kmeans") == "actor of kmeans#1"
    assert cluster.backend.incarnation("kmeans") == "kmeans#1"
    assert set(cluster.killed) == {"actor of kmeans", "actor of kmeans#2"}


def test_without_any_worker_the_run_fails(monkeypatch):
    cluster = Cluster(monkeypatch, 2, "bb", cores=1.0)
    with pytest.raises(ModuleFailedError, match="kmeans has no process"):
        cluster.lose("b", "kmeans", "kmeans#1")


def test_auto_does_not_wait_for_cores_that_are_gone(monkeypatch):
    cluster = Cluster(monkeypatch, "auto", "aabb")
    cluster.lose("b")
    assert (cluster.workers, cluster.waited) == (["kmeans", "kmeans#1"], [])
    assert cluster.log == ["kmeans: goes on with 2 workers: the cluster has no more cores"]


def test_auto_starts_its_first_worker_again_where_all_are_gone(monkeypatch):
    cluster = Cluster(monkeypatch, "auto", "bbbb")
    cluster.lose("b")
    assert cluster.workers == ["kmeans", "kmeans#1"]
    assert cluster.backend._places["kmeans"].node_id == "a"


def test_a_module_whose_actor_was_ended_says_so_in_its_status():
    assert ray_backend.RayBackend("test").status("mm") == {"doing": "has ended"}
