"Runs and their store: kills, two processes at once, time limits, damaged folders."

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mdr_repro.clips.clip_set import ClipSet
from mdr_repro.clips.sampling import Sampling
from mdr_repro.clips.sources import source_checksum
from mdr_repro.losses import objectives, register_objective
from mdr_repro.models import backbones, register_backbone
from mdr_repro.recognizer import Softmax
from mdr_repro.skeleton import get_skeleton
from mdr_repro.training import run_store as store_module
from mdr_repro.training import trainer
from mdr_repro.training.run_spec import RunSpec, Schedule, WriteError
from mdr_repro.training.run_store import RunStore, StoreError
from mdr_repro.training.trainer import TrainingError

FILES = ("spec.json", "metrics.jsonl", "scores.npz", "model.safetensors", "result.json")


class Dropped(nn.Module):
    """A small network with batch norm and dropout, so that a resumed run needs running statistics
    and torch's own random stream."""

    def __init__(self, skeleton, in_channels=3, num_persons=1, width=12):
        super().__init__()
        self.embedding_dim = width
        self.first, self.norm, self.drop = (
            nn.Conv2d(in_channels, width, (3, 1)),
            nn.BatchNorm2d(width),
            nn.Dropout(0.3),
        )
        self.second = nn.Conv2d(width, width, (1, skeleton.num_joints))

    def forward(self, x):
        return self.second(self.drop(torch.relu(self.norm(self.first(x[..., 0]))))).mean((2, 3))


class Breaks(Softmax):
    "A loss that is no longer a number from the twelfth batch on."

    def __init__(self, num_classes, embedding_dim):
        super().__init__(num_classes, embedding_dim)
        self.batches = 0

    def terms(self, features, labels):
        self.batches += 1
        return {
            k: v * (float("nan") if self.batches >= 12 else 1.0)
            for k, v in super().terms(features, labels).items()
        }


if "test_dropped" not in backbones:
    register_backbone("test_dropped", Dropped)
if "test_breaks" not in objectives:
    register_objective("test_breaks", Breaks)


def tiny_clips(num_clips=57, num_classes=4, seed=0):
    """Noisy standing poses, one a class, 10 to 29 frames; every third clip is a test clip; subjects
    0 to 4."""
    g, skeleton = torch.Generator().manual_seed(seed), get_skeleton("coco17")
    length, y = (
        torch.randint(10, 30, (num_clips,), generator=g),
        torch.arange(num_clips) % num_classes,
    )
    pose = torch.randn(num_classes, 1, skeleton.num_joints, 3, generator=g)
    frames = pose[y.repeat_interleave(length)] + torch.randn(
        int(length.sum()), 1, skeleton.num_joints, 3, generator=g
    )
    return ClipSet(
        frames,
        torch.cat([torch.zeros(1, dtype=torch.int64), length.cumsum(0)]),
        y,
        (torch.arange(num_clips) % 3 == 2).long(),
        tuple(f"clip{i}" for i in range(num_clips)),
        tuple("abcd"[:num_classes]),
        skeleton,
        {"name": "tiny", "coordinates": "xyz", "subject": torch.arange(num_clips) // 4 % 5},
    )


def make_spec(folder, **changes):
    given = dict(
        data="tiny.npz",
        data_checksum=source_checksum("tiny.npz", folder),
        backbone="test_dropped",
        sampling=Sampling(num_frames=8, rotate=0.3),
        schedule=Schedule(epochs=3, batch_size=8, lr=0.05, milestones=(2,)),
    )
    return RunSpec(**(given | changes))


def child(function, *args):
    "Start a function of this file in a process of its own."
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_training as"
        f" t; t.{function}(*sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, returncode=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == returncode, err
    return out


def wait_for(path, process):
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def history(record):
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (record.folder / "metrics.jsonl").read_text().splitlines()
    ]


def assert_same_run(a, b):
    "Bit for bit, but for the clock."
    assert history(a) == history(b)
    for name in ("spec.json", "scores.npz", "model.safetensors"):
        assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes(), name
    for key in (
        "top1",
        "mean_class",
        "top5",
        "per_class",
        "last",
        "best",
        "reported",
        "content_checksum",
    ):
        assert a.result[key] == b.result[key], key


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    tiny_clips().save(folder / "tiny.npz")
    return folder


@pytest.fixture
def store(tmp_path, data):
    return RunStore(tmp_path / "results", data)


@pytest.fixture
def other(tmp_path, data):
    "A second store, for the same runs made without disturbance."
    return RunStore(tmp_path / "other", data)


# kills


def blocked_in_the_second_epoch(root, data_root, flag):
    "Train, but hang in the third batch of the second epoch until killed."
    torch.set_num_threads(1)
    real, calls = trainer.batches, []

    def hanging(clips, split, *args, **kwargs):
        calls.append(split)
        for i, batch in enumerate(real(clips, split, *args, **kwargs)):
            if calls.count("train") == 2 and i == 2:
                Path(flag).touch()
                time.sleep(600)
            yield batch

    trainer.batches = hanging
    RunStore(root, data_root).ensure([make_spec(Path(data_root))], progress=False)


def test_a_run_killed_inside_an_epoch_ends_bit_equal_and_its_lock_passes_on(
    store, other, data, tmp_path, monkeypatch
):
    spec, flag = make_spec(data), tmp_path / "inside"
    process = child("blocked_in_the_second_epoch", store.root, data, flag)
    wait_for(flag, process)
    assert store.status(spec) == "partial"
    assert len((store.partial(spec) / "metrics.jsonl").read_text().splitlines()) == 1
    waits, epochs = [], []

    def kill_while_waiting(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert len(waits) < 100, "the lock of a killed process was not freed"
        time.sleep(0.01)

    monkeypatch.setattr(
        store_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=kill_while_waiting)
    )
    (record,) = store.ensure([spec], progress=lambda spec, row: epochs.append(row["epoch"]))
    ended(process, -signal.SIGKILL)
    assert len(waits) >= 2, "the store did not wait for the run of the other process"
    assert epochs == [2, 3] and record.result["resumed"] == 1
    (undisturbed,) = other.ensure([spec], progress=False)
    assert undisturbed.result["resumed"] == 0
    assert_same_run(record, undisturbed)
    assert sorted(p.name for p in record.folder.iterdir()) == sorted(FILES)
    assert not store.partial(spec).exists()


def test_interrupts_leave_a_partial_run_that_ends_bit_equal(store, other, data):
    spec = make_spec(data, objective_options={"weights": (1, 0.1, 0.1)}, holdout=(1, 3))

    def press(spec, row):
        raise KeyboardInterrupt

    for epoch in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            store.ensure([spec], progress=press)
        assert store.status(spec) == "partial"
    (record,) = store.ensure([spec], progress=press)  # nothing left to train, so nobody presses
    assert record.result["resumed"] == 3
    assert_same_run(record, other.ensure([spec], progress=False)[0])


def test_a_run_cut_off_before_its_folder_was_moved_is_not_trained_again(store, data, monkeypatch):
    spec = make_spec(data)

    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(
            store_module.os,
            "replace",
            lambda a, b, real=os.replace: fail() if Path(a).name == spec.id else real(a, b),
        )
        with pytest.raises(KeyboardInterrupt):
            store.ensure([spec], progress=False)
    assert store.status(spec) == "partial" and not store.folder(spec).exists()
    monkeypatch.setattr(trainer, "train_epoch", fail)
    (record,) = store.ensure([spec], progress=False)
    assert record.result["epochs"] == 3


# two processes


def ensure_three(root, data_root, log, flag):
    "Train three runs, writing down every epoch; begin when the flag is there."
    torch.set_num_threads(1)
    specs = [make_spec(Path(data_root), seed=seed) for seed in range(3)]

    def note(spec, row):
        with open(log, "a") as f:
            f.write(f"{os.getpid()} {spec.seed} {row['epoch']}\n")

    Path(f"{log}.{os.getpid()}").touch()
    while not Path(flag).exists():
        time.sleep(0.01)
    print(
        json.dumps(
            [r.result["top1"] for r in RunStore(root, data_root).ensure(specs, progress=note)]
        )
    )


def test_two_processes_train_each_run_once(store, other, data, tmp_path):
    log, flag = tmp_path / "log", tmp_path / "go"
    processes = [child("ensure_three", store.root, data, log, flag) for _ in range(2)]
    for p in processes:
        wait_for(Path(f"{log}.{p.pid}"), p)
    flag.touch()
    answers = [json.loads(ended(p)) for p in processes]
    epochs = sorted(tuple(map(int, line.split()[1:])) for line in log.read_text().splitlines())
    assert epochs == [(seed, epoch) for seed in range(3) for epoch in (1, 2, 3)]
    specs = [make_spec(data, seed=seed) for seed in range(3)]
    assert answers[0] == answers[1] == [store.get(s).result["top1"] for s in specs]
    assert_same_run(store.get(specs[1]), other.ensure([specs[1]], progress=False)[0])
    assert {p.name for p in (store.root / "runs").iterdir() if not p.name.startswith(".")} == {
        s.id for s in specs
    }
    assert not list((store.root / "runs" / ".partial").iterdir())


def test_a_run_finished_between_the_look_and_the_lock_is_not_trained_again(
    store, data, monkeypatch
):
    spec, real = make_spec(data, schedule=Schedule(epochs=1, batch_size=8)), RunStore.lock
    faster, trained = RunStore(store.root, data), []

    def late_lock(self, spec):  # the other process gets, trains and frees the run just before
        monkeypatch.setattr(RunStore, "lock", real)
        faster.ensure([spec], progress=lambda spec, row: trained.append("other"))
        return real(self, spec)

    monkeypatch.setattr(RunStore, "lock", late_lock)
    (record,) = store.ensure([spec], progress=lambda spec, row: trained.append("this"))
    assert trained == ["other"] and record.result == faster.get(spec).result


# time limits


def test_max_minutes_stops_at_an_epochs_end_and_the_run_goes_on_later(
    store, other, data, monkeypatch
):
    first, second = make_spec(data), make_spec(data, seed=1)
    assert store.ensure([first, second], max_minutes=0, progress=False) == [None, None]
    assert store.status(first) == "missing"
    now = [0.0]
    clock = SimpleNamespace(
        monotonic=lambda: now[0], perf_counter=time.perf_counter, sleep=time.sleep
    )
    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(store_module, "time", clock)

    def a_minute_an_epoch(spec, row):
        now[0] += 60

    assert store.ensure([first, second], max_minutes=1.5, progress=a_minute_an_epoch) == [
        None,
        None,
    ]
    assert (store.status(first), store.status(second)) == ("partial", "missing")
    assert len((store.partial(first) / "metrics.jsonl").read_text().splitlines()) == 2
    done, none = store.ensure([first, second], max_minutes=0.5, progress=a_minute_an_epoch)
    assert none is None and store.status(second) == "missing"
    assert_same_run(done, other.ensure([first], progress=False)[0])


# what cannot be trusted


@pytest.fixture
def finished(store, data):
    return store.ensure(
        [make_spec(data, schedule=Schedule(epochs=1, batch_size=8))], progress=False
    )[0]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_folder_is_refused_by_file(store, finished, name):
    path, whole = finished.folder / name, (finished.folder / name).read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for damage in (None, b"", whole[: len(whole) // 2], flipped):
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(StoreError, match="delete the folder to train it again") as e:
            store.ensure([finished.spec], progress=False)
        assert str(path) in str(e.value) and "\n" not in str(e.value)
        path.write_bytes(whole)
    assert store.get(finished.spec).result == finished.result


def test_a_deleted_folder_is_trained_again_to_the_same_bits(store, other, finished):
    for p in finished.folder.iterdir():
        p.unlink()
    finished.folder.rmdir()
    assert store.status(finished.spec) == "missing" and store.get(finished.spec) is None
    assert_same_run(
        store.ensure([finished.spec], progress=False)[0],
        other.ensure([finished.spec], progress=False)[0],
    )


def partial_run(store, spec):
    "A run that was interrupted after its first epoch; its checkpoint."

    def press(spec, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure([spec], progress=press)
    return store.partial(spec) / "checkpoint.pt"


def test_checkpoints_of_another_format_or_another_data_are_refused(store, data):
    spec = make_spec(data)
    path = partial_run(store, spec)
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    for change, words in (
        ({"format": 99}, "format 99"),
        ({"content": "0"}, "the clips have changed"),
        ({"spec": "{}"}, "another spec"),
    ):
        torch.save(state | change, path)
        with pytest.raises(TrainingError, match=words) as e:
            store.ensure([spec], progress=False)
        assert str(path) in str(e.value) and "delete the folder" in str(e.value)
    path.write_bytes(whole)
    (store.partial(spec) / "spec.json").write_text("{}")
    with pytest.raises(TrainingError, match="belongs to another spec"):
        store.ensure([spec], progress=False)


def test_data_that_is_not_what_the_spec_says_is_refused(store, data):
    spec = make_spec(data)
    tiny_clips(seed=1).save(data / "tiny.npz")
    with pytest.raises(StoreError, match="tiny.npz: the data is not what the spec was made for"):
        store.ensure([spec], progress=False)
    assert store.status(spec) == "missing"


def test_a_store_that_cannot_be_written_says_so(tmp_path, data):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be written to .*; see that it is a folder"):
        RunStore(tmp_path / "file", data).ensure([make_spec(data)], progress=False)


# losses that are no longer finite


def test_a_loss_that_is_no_number_stops_its_run_alone_and_keeps_the_history(
    store, data, monkeypatch
):
    broken, sound = make_spec(data, objective="test_breaks"), make_spec(data)
    with pytest.raises(TrainingError, match="no longer finite in epoch 3, batch 5") as e:
        store.ensure([broken, sound], progress=False)
    assert broken.label in str(e.value) and "\n" not in str(e.value)
    assert (store.status(broken), store.status(sound)) == ("diverged", "done")
    rows = (store.partial(broken) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(r)["epoch"] for r in rows] == [1, 2]

    def fail(run):
        raise AssertionError("a failed run was trained again")

    monkeypatch.setattr(trainer, "train_epoch", fail)
    with pytest.raises(TrainingError, match="delete the folder"):
        store.ensure([broken], progress=False)


# validation subjects


def test_held_out_clips_are_not_trained_on_and_choose_the_epoch(store, data):
    spec = make_spec(data, holdout=(1, 3), schedule=Schedule(epochs=4, batch_size=8, lr=0.05))
    (record,) = store.ensure([spec], progress=False)
    r, val = record.result, [row["val_top1"] for row in history(record)]
    assert (
        r["clips"]["val"] > 0 and r["clips"]["train"] + r["clips"]["val"] + r["clips"]["test"] == 57
    )
    assert (
        r["reported"] == "best"
        and r["epoch"] == 1 + val.index(max(val))
        and r["best"]["split"] == "val"
        and r["best"]["top1"] == max(val)
    )
    assert r["top1"] == r["best"]["test"]["top1"] == record.scores().top1
    # the test clips are looked at once
    assert not any("test_top1" in row for row in history(record))
    clips = tiny_clips()
    held = clips.hold_out((1, 3))
    frames = clips.frames.clone()
    for i in held.indices("val").tolist():
        frames[held.offsets[i] : held.offsets[i + 1]] *= 2
    replace(clips, frames=frames).save(data / "tiny.npz")
    (changed,) = store.ensure(
        [make_spec(data, holdout=(1, 3), schedule=spec.schedule)], progress=False
    )
    assert changed.spec.id != spec.id
    assert [row["loss"] for row in history(changed)] == [row["loss"] for row in history(record)]
    assert changed.result["last"] == r["last"]


@pytest.mark.parametrize(
    "held", [dict(holdout=(1, 3)), dict(holdout_every=4)], ids=["subjects", "every fourth"]
)
def test_a_run_that_chooses_settings_never_looks_at_a_test_clip(store, data, held, monkeypatch):
    from mdr_repro.training import trainer

    looked, evaluate = set(), trainer.evaluate
    monkeypatch.setattr(
        trainer,
        "evaluate",
        lambda net, clips, split, *args: looked.add(split) or evaluate(net, clips, split, *args),
    )
    (record,) = store.ensure([make_spec(data, **held, scored="val")], progress=False)
    r = record.result
    assert looked == {"val"} and r["reported"] == "last" and r["last"]["split"] == "val"
    assert len(record.scores().labels) == r["clips"]["val"] > 0
    assert r["top1"] == record.scores().top1 == history(record)[-1]["val_top1"]
    with pytest.raises(ValueError, match="needs clips that are held out"):
        make_spec(data, scored="val")


# records


def test_a_record_gives_back_the_model_that_made_its_scores(store, finished):
    from mdr_repro.training.evaluation import evaluate

    s = finished.spec
    model = finished.model()
    assert not model.training
    scores = evaluate(model, tiny_clips(), "test", s.sampling, s.schedule.batch_size)
    assert (
        scores.scores == finished.scores().scores
    ).all() and scores.names == finished.scores().names
    assert finished.result["top1"] == scores.top1 == finished.metrics["test_top1"].iloc[-1]


def test_one_line_an_epoch_where_there_is_no_terminal(store, data, capsys):
    spec = make_spec(data, schedule=Schedule(epochs=2, batch_size=8))
    store.ensure([spec, spec])
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 2
        and lines[1].startswith("test_dropped rdl seed 0 [2/2] loss ")
        and " test " in lines[1]
    )


def test_a_single_clip_left_over_is_dropped_and_said_so(store, data):
    n = len(tiny_clips().indices("train"))
    for size in (n - 1, 8):  # n - 1 leaves one clip, 8 leaves more
        spec = make_spec(data, schedule=Schedule(epochs=1, batch_size=size))
        r = store.ensure([spec], progress=False)[0].result
        assert r["last_batch"] == {
            "rule": "keep",
            "left_out": int(n % size == 1),
            "joined": 0,
        } and r["batches"]["train"] == (1 if size == n - 1 else -(-n // size))


@pytest.mark.parametrize(
    "rule, sizes", [("keep", [16, 16, 6]), ("drop", [16, 16]), ("join", [16, 22])]
)
def test_the_last_batch_obeys_its_rule_and_the_record_says_what_came_of_it(
    store, other, data, monkeypatch, rule, sizes
):
    spec, seen, real = (
        make_spec(data, schedule=Schedule(epochs=3, batch_size=16, lr=0.05, last_batch=rule)),
        [],
        trainer.batch_loss,
    )
    assert len(tiny_clips().indices("train")) == 38
    monkeypatch.setattr(
        trainer, "batch_loss", lambda run, x, y: seen.append(len(y)) or real(run, x, y)
    )
    (record,) = store.ensure([spec], progress=False)
    assert seen == 3 * sizes
    r = record.result
    assert r["last_batch"] == {
        "rule": rule,
        "left_out": 38 - sum(sizes),
        "joined": 6 if rule == "join" else 0,
    }
    assert (r["passes"], r["steps"], r["clips_seen"]) == (3, 3 * len(sizes), 3 * sum(sizes))
    # testing sees every clip
    assert r["batches"] == {"train": len(sizes), "test": 2} and len(record.scores().names) == 19
    partial_run(other, spec)  # and a run that was interrupted ends with the same bits
    (resumed,) = other.ensure([spec], progress=False)
    assert resumed.result["resumed"] == 1
    assert_same_run(resumed, record)


def test_fewer_clips_than_a_batch_are_an_error_only_where_nothing_would_be_trained(store, data):
    def big(rule):
        return make_spec(data, schedule=Schedule(epochs=1, batch_size=64, last_batch=rule))

    with pytest.raises(
        TrainingError,
        match=(
            "38 clips do not fill a batch of 64, and last_batch='drop' leaves them out; give a"
            " smaller batch"
        ),
    ):
        store.ensure([big("drop")], progress=False)
    records = store.ensure([big("keep"), big("join")], progress=False)
    for r in records:
        assert (
            r.result["steps"],
            r.result["clips_seen"],
            r.result["last_batch"]["left_out"],
            r.result["last_batch"]["joined"],
        ) == (1, 38, 0, 0)
    assert (records[0].folder / "model.safetensors").read_bytes() == (
        records[1].folder / "model.safetensors"
    ).read_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_gpu_run_learns_resumes_and_is_read_without_one(tmp_path, data, precision):
    store = RunStore(tmp_path / "gpu", data, device="cuda")
    spec = make_spec(
        data,
        backbone="mdr_gcn",
        backbone_options={"widths": (8, 8, 16)},
        precision=precision,
        schedule=Schedule(epochs=15, batch_size=8, lr=0.05),
    )
    partial_run(store, spec)
    (record,) = store.ensure([spec], progress=False)
    assert record.result["resumed"] == 1 and record.result["device"] == torch.cuda.get_device_name()
    loss = record.metrics["loss"]
    assert loss.iloc[-1] < 0.8 * loss.iloc[0]
    from mdr_repro.training.evaluation import evaluate

    scores = evaluate(
        record.model("cpu"), tiny_clips(), "test", spec.sampling, 8, precision=precision
    )
    assert abs(scores.scores - record.scores().scores).max() < (
        2e-3 if precision == "fp32" else 0.3
    )
