"""The processes of a training: who joins, on which device, and what travels between them."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from training.world import Launched, World, check_count, device_of_rank, launched, processes
from utils.errors import UserError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost"}
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(("environ", "place"), [
    ({}, None),
    (SLURM, None),  # every shell of a Slurm job has these
    (TORCHRUN, Launched(3, 4, 1, 2)),
    (SLURM | {"MASTER_ADDR": "node0"}, Launched(3, 4, 1, 2)),
    (SLURM | {"MASTER_ADDR": "node0", "SLURM_NTASKS_PER_NODE": "2"}, Launched(3, 4, 1, 2)),
    (TORCHRUN | SLURM | {"SLURM_NTASKS": "99"}, Launched(3, 4, 1, 2)),
    ({"MASTER_ADDR": "node0"}, None),
    (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}, None),
])
def test_a_launcher_is_told_by_local_rank_or_master_addr(environ, place):
    assert launched(environ) == place


def test_variables_that_are_no_numbers_are_one_line():
    with pytest.raises(UserError, match="are no numbers"):
        launched(TORCHRUN | {"RANK": "first"})


def test_tasks_of_slurm_alone_start_nothing(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with processes("cpu", None) as world:
        assert (world.rank, world.size) == (0, 1)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (64, 32)])
def test_threads_leave_room_for_company(monkeypatch, cores, threads):
    counts = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setattr("training.world.cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for typed in (None, 5):
        with processes("cpu", typed):
            pass
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # torch has read it
    with processes("cpu", None):
        pass
    assert counts == [threads, 5]


def test_only_the_first_process_has_a_bar(monkeypatch):
    monkeypatch.setattr("training.world.progress_bar", lambda batches: "bar")
    assert World(torch.device("cpu"), 0, 2).progress([1]) == "bar"
    assert World(torch.device("cpu"), 1, 2).progress([1]) == [1]


@pytest.fixture
def four_gpus(monkeypatch, pretend_accelerator):
    """Four pretended GPUs; the list of devices that were touched."""
    touched = []

    def checked_device(name):
        touched.append(name)
        return torch.device(name)

    pretend_accelerator("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("training.world.checked_device", checked_device)
    return touched


@pytest.mark.parametrize("name", ["cuda", None])
def test_each_process_touches_its_own_gpu_alone(four_gpus, name):
    assert [device_of_rank(name, rank, 4) for rank in range(4)] == \
        [torch.device("cuda", rank) for rank in range(4)]
    assert four_gpus == [f"cuda:{rank}" for rank in range(4)]


def test_a_numbered_gpu_is_for_one_process(four_gpus):
    assert device_of_rank("cuda:2", 0, 1) == torch.device("cuda", 2)
    with pytest.raises(UserError, match="name cuda without a number"):
        check_count(2, "cuda:2")
    with pytest.raises(UserError, match="5 processes for 4 GPUs"):
        check_count(5, "cuda")


@pytest.mark.parametrize("mode", ["reduce", "broadcast"])
def test_statistics_kept_on_the_cpu_travel_over_the_gpu(monkeypatch, mode):
    """NCCL takes tensors of GPUs only: a process group that checks this stands in for it."""
    travelled = []

    def collective(tensor, *_):
        assert tensor.device.type == "cuda", "NCCL refuses tensors of the CPU"
        travelled.append(tensor.shape)

    monkeypatch.setattr(torch.distributed, "all_reduce", collective)
    monkeypatch.setattr(torch.distributed, "broadcast", collective)
    with FakeTensorMode():
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        World(torch.device("cuda", 1), 1, 2).share_bn(net, mode)
        assert net[1].running_mean.device.type == "cpu"
    assert len(travelled) == 2


def test_sums_travel_in_the_widest_floats_that_the_device_has(monkeypatch):
    dtypes = []
    monkeypatch.setattr("training.world.widest_float", lambda device: torch.float32)
    monkeypatch.setattr("training.world.reduce_tensor",
                        lambda tensor, n: dtypes.append(tensor.dtype) or tensor)
    with FakeTensorMode():
        World(torch.device("cuda", 1), 1, 2).sum(torch.zeros(4, dtype=torch.float64))
    assert dtypes == [torch.float32]


def test_nothing_travels_where_it_is_switched_off(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", None)
    World(torch.device("cpu"), 0, 2).share_bn(nn.BatchNorm2d(4), "")
    World(torch.device("cpu"), 0, 1).share_bn(nn.BatchNorm2d(4), "reduce")
