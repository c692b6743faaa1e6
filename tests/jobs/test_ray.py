"""Several nodes: one is killed, and inputs that a node lacks are shipped to it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

ray = pytest.importorskip("ray", reason="needs requirements-ray.txt")

from evaluator.jobs import (  # noqa: E402
    Devices,
    EvaluatorSpec,
    InProcess,
    Job,
    JobStream,
    get_engine,
    plan_slots,
)
from evaluator.jobs import ray as backend  # noqa: E402
from search import Progress, SpaceCosts, make_objectives  # noqa: E402
from search.asynchronous import AsynchronousSearch  # noqa: E402
from search.run_folder import RETRIES  # noqa: E402
from search_space import OFASearchSpace  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.search.evaluators import Formula  # noqa: E402
from tests.search.runs import contents  # noqa: E402
from utils.errors import UserError  # noqa: E402

SPEC = EvaluatorSpec("tests.jobs.evaluators:Obedient")


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs and two nodes with one each, to which this process is connected."""
    from ray.cluster_utils import Cluster
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    cluster = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 0, "include_dashboard": False,
        "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 2,
                           "health_check_initial_delay_ms": 0}})
    cluster.doomed = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    left = [child for child in psutil.Process().children(recursive=True)
            if child.pid not in before]
    assert not psutil.wait_procs(left, timeout=10)[1]


def test_slots_are_planned_from_the_clusters_devices(cluster):
    assert plan_slots(8, 2, ray_address=cluster.address) == [Devices(), Devices()]
    assert not ray.is_initialized()


def test_inputs_that_a_node_lacks_are_shipped(cluster, monkeypatch, tmp_path):
    weights = tmp_path / "ofa w1.2"
    weights.write_bytes(b"weights")
    spec = EvaluatorSpec(SPEC.name, {"supernet_path": str(weights), "data": str(tmp_path)})
    monkeypatch.setattr(backend, "Worker", NodeWithoutWeights)
    with get_engine("ray", spec, slots=[Devices()], ray_address=cluster.address) as engine:
        (result,) = engine.run([Job("a", {"do": "read_inputs"})])
    assert result.stats["path"] != str(weights) and result.stats["name"] == "ofa w1.2"
    assert result.stats["content"] == "weights"
    assert result.stats["data"] == str(tmp_path)  # found by path


class NodeWithoutWeights(backend.Worker):
    """As if the node had another file system."""

    def missing(self, paths):
        return [path for path in paths if "w1.2" in path]


def test_inputs_that_nobody_has_are_left_to_the_evaluator(cluster):
    spec = EvaluatorSpec(SPEC.name, {"supernet_path": "nowhere/w1.0"})
    with get_engine("ray", spec, slots=[Devices()], ray_address=cluster.address) as engine:
        results = list(engine.run([Job("a", {"do": "seeded", "with": 1}),
                                   Job("b", {"do": "read_inputs"})]))
    assert sorted(r.status for r in results) == ["failed", "ok"]
    assert "nowhere/w1.0" in next(r.error for r in results if not r.ok)


@pytest.mark.parametrize("everybody", [False, True])
def test_sigterm_ends_a_search_on_ray_as_it_ends_any_other(cluster, tmp_path, everybody):
    """Slurm sends it to all processes of a job, Ray's own ones too, where the search started them.

    Alone the search is a guest of a cluster that goes on.
    """
    save = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "msunas.py", "--evaluator", "tests.search.evaluators:Formula", "--n_doe",
         "60", "--iterations", "0", "--save", str(save), "--backend", "ray",
         "--ray_address", "local" if everybody else cluster.address], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "MSUNAS_TEST_SLEEP": "0.5"})
    deadline = time.monotonic() + 90
    while not (save / "iter_0/net_0.stats").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    (os.killpg if everybody else os.kill)(process.pid, signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    assert f"--resume {save}" in error and "SIGTERM received" not in error


def test_a_lost_node_costs_time_only(cluster):
    jobs = [Job(f"j{i}", {"do": "sleep", "with": 0.4}) for i in range(12)]
    with get_engine("ray", SPEC, slots=[Devices()] * 2, ray_address=cluster.address) as engine:
        list(engine.run(jobs))  # an actor on either node
        results = engine.run(jobs)
        finished = [next(results), next(results)]
        cluster.remove_node(cluster.doomed, allow_graceful=False)
        finished += results
    assert sorted(r.job.name for r in finished) == sorted(job.name for job in jobs)
    assert all(r.ok for r in finished)
    assert max(r.attempts for r in finished) == 2
    assert len({r.stats["pid"] for r in finished[2:]}) <= 2


def test_jobs_come_while_a_node_is_lost(cluster):
    doomed = cluster.add_node(num_cpus=1)
    jobs, stream = [Job(f"j{i}", {"do": "sleep", "with": 0.4}) for i in range(12)], JobStream()
    stream.put(jobs[:6])
    with get_engine("ray", SPEC, slots=[Devices()] * 2, ray_address=cluster.address) as engine:
        results = engine.run(stream)
        finished = [next(results)]
        cluster.remove_node(doomed, allow_graceful=False)
        stream.put(jobs[6:])
        stream.close()
        finished += results
    assert sorted(r.job.name for r in finished) == sorted(job.name for job in jobs)
    assert all(r.ok for r in finished)


@pytest.mark.slow
def test_an_asynchronous_search_that_loses_a_node_has_the_bytes_of_a_local_one(cluster, tmp_path):
    doomed = cluster.add_node(num_cpus=1)

    def search(name, engine):
        costs = SpaceCosts(OFASearchSpace())
        AsynchronousSearch(
            costs.space, make_objectives("flops", costs), "nsga2", engine=engine,
            folder=tmp_path / name, n_doe=20, iterations=3, n_iter=6, devices=2, costs=costs,
            progress=Progress(0, quiet=True)).run()
        return {file: content for file, content in contents(tmp_path / name).items()
                if file != RETRIES}

    class Losing:
        """The engine of a cluster, one of whose nodes goes after six results."""

        def run(self, jobs):
            for n, result in enumerate(on_ray.run(jobs)):
                if n == 5:
                    cluster.remove_node(doomed, allow_graceful=False)
                yield result

    with get_engine("ray", EvaluatorSpec("tests.search.evaluators:Formula"),
                    slots=[Devices()] * 2, ray_address=cluster.address) as on_ray:
        files = search("ray", Losing())
    assert files == search("local", InProcess(Formula())) and "iter_3.stats" in files


def test_folders_are_packed_whole(tmp_path):
    folder = tmp_path / "digits ä"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "1.txt").write_text("one")
    unpacked = backend.unpack(backend.pack(folder), tmp_path / "there")
    assert unpacked == str(tmp_path / "there" / "digits ä")
    assert (tmp_path / "there" / "digits ä" / "train" / "1.txt").read_text() == "one"


def test_folders_too_large_to_ship_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "MAX_SHIPPED_BYTES", 3)
    (tmp_path / "a").write_text("four")
    with pytest.raises(UserError, match="copy it to the same path on each"):
        backend.pack(tmp_path)


def no_cluster(**_options):
    raise ConnectionError("nobody there")


def test_a_named_cluster_must_be_there(monkeypatch):
    monkeypatch.setattr(backend.ray, "init", no_cluster)
    with pytest.raises(UserError, match="no Ray cluster at head:6379: nobody there"):
        backend.connect("head:6379")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(UserError, match="nobody there"):
        backend.connect("auto")


@pytest.mark.parametrize("address", ["auto", None])
def test_without_a_running_cluster_one_is_started_here(monkeypatch, address):
    calls = []

    def init(**options):
        calls.append(options)
        if options["address"] == "auto":
            no_cluster()

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(backend.ray, "init", init)
    assert backend.cluster_devices(address) is None
    backend.connect(address, n_cpus=500)
    assert calls[-1]["address"] == "local" and calls[-1]["num_cpus"] == 500


NODES = {"head": {"CPU": 8.0}, "gpus": {"CPU": 4.0, "GPU": 4.0}, "big": {"CPU": 64.0, "GPU": 8.0}}


@pytest.mark.parametrize(("names", "n_slots", "threads"), [
    (("head", "gpus"), 4, 1), (("head", "big"), 8, 8), (("gpus", "big"), 12, 1)])
def test_an_actor_asks_for_no_more_cpus_than_its_node_has_for_a_gpu(monkeypatch, names, n_slots,
                                                                    threads):
    monkeypatch.setattr(backend, "join", lambda address: True)
    monkeypatch.setattr(backend.ray, "shutdown", lambda: None)
    nodes = [{"Alive": True, "Resources": NODES[name]} for name in names]
    nodes.append({"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 1000.0}})
    monkeypatch.setattr(backend.ray, "nodes", lambda: nodes)
    slots = plan_slots(100, ray_address="auto")
    assert len(slots) == n_slots and {slot.threads for slot in slots} == {threads}
    for name in names:  # and so all of a node's GPUs can be had at once
        assert threads * NODES[name].get("GPU", 0) <= NODES[name]["CPU"]
