"""Several nodes: one is killed, and inputs that a node lacks are shipped to it."""

import psutil
import pytest

ray = pytest.importorskip("ray", reason="needs requirements-ray.txt")

from evaluator.jobs import EvaluatorSpec, Job, Slot, get_engine, plan_slots  # noqa: E402
from evaluator.jobs import ray as backend  # noqa: E402
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
    assert plan_slots(8, 2, ray_address=cluster.address) == [Slot(), Slot()]
    assert not ray.is_initialized()


def test_inputs_that_a_node_lacks_are_shipped(cluster, monkeypatch, tmp_path):
    weights = tmp_path / "ofa w1.2"
    weights.write_bytes(b"weights")
    spec = EvaluatorSpec(SPEC.name, {"supernet_path": str(weights), "data": str(tmp_path)})
    monkeypatch.setattr(backend, "Worker", NodeWithoutWeights)
    with get_engine("ray", spec, slots=[Slot()], ray_address=cluster.address) as engine:
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
    with get_engine("ray", spec, slots=[Slot()], ray_address=cluster.address) as engine:
        results = list(engine.run([Job("a", {"do": "seeded", "with": 1}),
                                   Job("b", {"do": "read_inputs"})]))
    assert sorted(r.status for r in results) == ["failed", "ok"]
    assert "nowhere/w1.0" in next(r.error for r in results if not r.ok)


def test_a_lost_node_costs_time_only(cluster):
    jobs = [Job(f"j{i}", {"do": "sleep", "with": 0.4}) for i in range(12)]
    with get_engine("ray", SPEC, slots=[Slot()] * 2, ray_address=cluster.address) as engine:
        list(engine.run(jobs))  # an actor on either node
        results = engine.run(jobs)
        finished = [next(results), next(results)]
        cluster.remove_node(cluster.doomed, allow_graceful=False)
        finished += results
    assert sorted(r.job.name for r in finished) == sorted(job.name for job in jobs)
    assert all(r.ok for r in finished)
    assert max(r.attempts for r in finished) == 2
    assert len({r.stats["pid"] for r in finished[2:]}) <= 2


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
