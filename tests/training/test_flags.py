"""The flags of the fine-tuning scripts: defaults, other names, what is refused."""

import sys
from argparse import Namespace
from types import ModuleType

import pytest

import train_cifar
import train_imagenet
from training.checkpoints import plain_part
from training.flags import PARTNERS, SCHEDULES, check_flags, check_loss, check_processes
from training.run_files import start_wandb
from utils.errors import UserError
from utils.flags import choose


def imagenet(*words) -> Namespace:
    return train_imagenet.get_args_parser().parse_args(["data", *map(str, words)])


def cifar(*words) -> Namespace:
    return train_cifar.get_args_parser().parse_args(list(map(str, words)))


def test_defaults_of_the_imagenet_script_are_the_originals():
    args = vars(imagenet())
    assert {key: args[key] for key in (
        "opt", "momentum", "weight_decay", "sched", "epochs", "warmup_lr", "min_lr", "decay_epochs",
        "decay_rate", "warmup_epochs", "model_ema_decay", "batch_size", "smoothing", "remode",
        "color_jitter", "drop", "seed")} == {
        "opt": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "sched": "step", "epochs": 200,
        "warmup_lr": 1e-4, "min_lr": 1e-5, "decay_epochs": 30, "decay_rate": 0.1,
        "warmup_epochs": 3, "model_ema_decay": 0.9998, "batch_size": 32, "smoothing": 0.1,
        "remode": "const", "color_jitter": 0.4, "drop": 0.0, "seed": 42}


def test_defaults_of_the_cifar_script_are_the_originals():
    args = cifar()
    assert (args.drop, args.drop_path, args.workers) == (0.2, 0.2, 2)


def test_names_of_the_original_are_read():
    args = cifar("--num_workers", 3, "--weight_decay", 1e-3, "--grad_clip", 2, "--cutout_length",
                 8, "--report_freq", 7, "--topk", 4, "--n_gpus", 1, "--local_rank", 0)
    assert (args.workers, args.weight_decay, args.clip_grad) == (3, 1e-3, 2.0)
    assert (args.cutout_length, args.log_interval, args.checkpoint_hist) == (8, 7, 4)
    assert (args.num_gpu, args.local_rank) == (1, 0)
    args = imagenet("--dr", 0.5, "--drop-connect", 0.1, "--num-gpu", 1, "--jsd", "--local-rank", 1)
    assert (args.decay_rate, args.drop_path, args.jsd) == (0.5, 0.1, True)


def test_the_number_of_gpus_is_the_number_of_processes():
    check_processes(Namespace(num_gpu=None), 4, "train_imagenet.py")
    check_processes(Namespace(num_gpu=4), 4, "train_imagenet.py")
    with pytest.raises(UserError, match=r"distributed_train.sh 2 "):
        check_processes(Namespace(num_gpu=2), 1, "train_imagenet.py")
    with pytest.raises(UserError, match=r"SCRIPT=train_cifar.py sh scripts/\S+ 4 "):
        check_processes(Namespace(num_gpu=4), 1, "train_cifar.py")


def test_a_small_validation_batch_tells_both_meanings(tmp_path):
    (tmp_path / "net.config").touch()
    args = imagenet("-vb", 4, "--model-config", "net.config")
    args.data = str(tmp_path)
    with pytest.raises(UserError, match=r"-vb 4: the number of images .* not a multiple of"):
        train_imagenet.checked(args)
    args.validation_batch_size = 8
    train_imagenet.checked(args)


@pytest.mark.parametrize(("words", "data"), [
    (["FOLDER"], "FOLDER"), (["--data", "FOLDER"], "FOLDER"), ([], None),
    (["FOLDER", "--data", "FOLDER"], "FOLDER")])
def test_the_folder_of_the_cifar_script_has_two_places(words, data):
    assert train_cifar.checked(cifar("--model-config", "x", *words)).data == data


def test_two_folders_are_refused():
    with pytest.raises(UserError, match="the folder HERE was given too"):
        train_cifar.checked(cifar("HERE", "--model-config", "x", "--data", "THERE"))


@pytest.mark.parametrize(("words", "match"), [
    (["--jsd"], "--jsd: needs --aug-splits"),
    (["--aug-splits", 1], "two copies of each image"),
    (["--aug-splits", 2, "--mixup", 0.2], "--mixup or --cutmix"),
    (["--jsd", "--aug-splits", 3, "--bce-loss"], "choose one"),
    (["--dataset", "wds/x", "--aug-repeats", 3], "not with --dataset wds"),
    (["--dataset", "wds/x", "--aug-splits", 3], "not with --dataset wds")])
def test_contradictions_of_the_loss(words, match):
    check_loss(imagenet())
    with pytest.raises(UserError, match=match):
        check_loss(imagenet(*words))


@pytest.mark.parametrize("name", ["cifar10", "folder", "tar", "hfds/ylecun/mnist", "wds/x"])
def test_names_of_data_sets(name):
    assert imagenet("--dataset", name).dataset == name


@pytest.mark.parametrize("name", ["cifar11", "hfds", "torch/cifar10", "x/y"])
def test_other_names_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        imagenet("--dataset", name)
    assert "hfds/NAME" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "recorded", "chosen", "told"), [
    (160, 48, 160, 1), (None, 48, 48, 0), (160, None, 160, 0), (48, 48, 48, 0),
    (None, None, None, 0), ([0.5] * 3, [0.4] * 3, [0.5] * 3, 1)])
def test_a_typed_flag_is_obeyed_and_a_contradiction_is_reported(typed, recorded, chosen, told):
    lines = []
    assert choose("--img-size", typed, recorded, "net.config", lines.append) == chosen
    assert len(lines) == told
    assert all("net.config records" in line and "using --img-size" in line for line in lines)


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The last checkpoint of a run `runs/run 1` that began with w.pth."""
    folder = tmp_path / "runs" / "run 1"
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text("initial_checkpoint: w.pth\nmodel_config: x\n")
    (folder / "last.pth.tar").touch()
    monkeypatch.chdir(tmp_path)
    return folder / "last.pth.tar"


def checked(script, *words) -> None:
    """Checks flags of a script, given without its data."""
    if script == "cifar":
        train_cifar.checked(cifar(*words))
    else:
        args = imagenet(*words)
        args.data = "."
        train_imagenet.checked(args)


@pytest.mark.parametrize(("script", "root"), [("cifar", "--save"), ("imagenet", "--output")])
def test_what_resume_would_ignore_is_refused(stopped, script, root):
    resumed = ["--model-config", "x", "--resume", stopped]
    with pytest.raises(UserError, match=rf"^{root} other: .* in its own folder, .*run 1; leave"):
        checked(script, *resumed, root, "other")
    for weights in ("missing.pth", "none"):
        with pytest.raises(UserError, match=rf"^--initial-checkpoint {weights}: .*last.pth.tar; l"):
            checked(script, *resumed, "--initial-checkpoint", weights)
    (stopped.parent / "args.yaml").unlink()
    with pytest.raises(UserError, match="leave --initial-checkpoint out"):
        checked(script, *resumed, "--initial-checkpoint", "w.pth")


@pytest.mark.parametrize(("script", "root"), [("cifar", "--save"), ("imagenet", "--output")])
def test_the_first_command_can_be_repeated_with_resume(stopped, script, root):
    resumed = ["--model-config", "x", "--resume", stopped]
    for place in ("runs", "runs/run 1", stopped.parent, "./runs/../runs/"):
        checked(script, *resumed, root, place, "--initial-checkpoint", "./w.pth")
    checked(script, *resumed)
    with (stopped.parent / "args.yaml").open("a") as file:
        file.write(f"{root[2:]}: elsewhere\n")
    checked(script, "-c", stopped.parent / "args.yaml", "--resume", stopped)
    checked(script, *resumed[:3], "absent.tar", root, "other")  # whose absence is said later


def test_a_resumed_run_has_its_config_beside_it(stopped):
    with pytest.raises(UserError, match="--model-config: name"):
        train_cifar.checked(cifar("--resume", stopped))
    beside = stopped.with_name("net.config")
    beside.touch()
    assert train_cifar.checked(cifar("--resume", stopped)).model_config == str(beside)
    typed = cifar("--resume", stopped, "--model-config", "x")
    assert train_cifar.checked(typed).model_config == "x"
    with pytest.raises(UserError, match="--model-config: name"):
        train_cifar.checked(cifar())
    with pytest.raises(UserError, match=f"{beside}: "):
        train_imagenet.main(imagenet("--resume", stopped, "--download"))


def test_weights_and_biases_gets_the_flags(monkeypatch):
    calls = {}
    fake = ModuleType("wandb")
    fake.init = lambda **options: calls.update(options) or "run"
    monkeypatch.setitem(sys.modules, "wandb", fake)
    args = imagenet("--log-wandb", "--wandb-project", "P", "--wandb-tags", "a", "b",
                    "--wandb-resume-id", "ID")
    assert start_wandb(args, "name") == "run"
    assert (calls["project"], calls["name"], calls["tags"]) == ("P", "name", ["a", "b"])
    assert (calls["id"], calls["resume"], calls["config"]["seed"]) == ("ID", "must", 42)


@pytest.mark.parametrize(("words", "match"), [
    (("--teacher-checkpoint", "x"), "without --teacher"), (("--kd-ratio", 1), "without --teacher"),
    (("--wandb-project", "P"), "without --log-wandb"), (("--min-lr", 0, "--sched", "step"),
     "--min-lr: has no meaning without --sched cosine or tanh or poly or plateau; leave it out")])
def test_flags_that_would_mean_nothing_are_refused(words, match):
    with pytest.raises(UserError, match=match):
        train_cifar.checked(cifar("--model-config", "x", *words))


@pytest.mark.parametrize(("partner", "flag"), [
    (partner, flag) for table in (PARTNERS, SCHEDULES) for partner in table
    for flag in table[partner]])
def test_a_flag_alone_is_refused_and_with_its_partner_obeyed(monkeypatch, partner, flag):
    make = cifar if partner == "--cutout" else imagenet
    known = {option: action.dest for script in (train_imagenet, train_cifar)
             for action in script.get_args_parser()._actions for option in action.option_strings}
    args = make("--model-config", "x")
    args.typed = {known[flag]}
    for name in ("teacher", "amp", "torchcompile"):
        assert not getattr(args, name)
    args.sched = "constant"
    with pytest.raises(UserError, match=f"{flag}: has no meaning without "):
        check_flags(args)
    together = make("--model-config", "x", "--resume", "r", "--log-wandb")
    if isinstance(partner, str):
        setattr(together, known[partner.split(" or ")[-1]], "there")
    together.typed, together.sched = args.typed, partner[0]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # wandb is not installed
    check_flags(together)


def test_weights_and_biases_that_cannot_start_is_one_line(monkeypatch):
    def fail(**options):
        raise RuntimeError("no account\nis known")

    fake = ModuleType("wandb")
    fake.init = fail
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(UserError, match=r"--log-wandb: no account\\nis known; WANDB_MODE=offline"):
        start_wandb(imagenet("--log-wandb"), "name")


def test_weights_and_biases_must_be_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        train_cifar.checked(cifar("--model-config", "x", "--log-wandb"))


def test_options_of_the_optimiser_can_be_read_again(tmp_path):
    import yaml

    args = plain_part(vars(imagenet("--opt-kwargs", "nesterov=True", "dampening=0")))
    path = tmp_path / "args.yaml"
    path.write_text(yaml.safe_dump(args))
    again = vars(train_imagenet.get_args_parser().parse_args(["data", "-c", str(path)]))
    assert again["opt_kwargs"] == ["nesterov=True", "dampening=0"]
