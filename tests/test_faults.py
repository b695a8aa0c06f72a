"Around a run: full disks, killed writers, changed bytes, small memories, clocks that are set."

import ast
import errno
import json
import os
import random
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from filelock import FileLock
from test_models import tiny
from test_training import (
    assert_same_run,
    data,
    ended,
    history,
    make_spec,
    one_thread,
    other,
    partial_run,
    store,
    wait_for,
)

from mdr_repro.clips.batches import batch_sizes
from mdr_repro.models import backbones
from mdr_repro.recognizer import Recognizer, Softmax
from mdr_repro.study.plan import work
from mdr_repro.training import trainer
from mdr_repro.training.run_spec import RunSpec, Schedule, WriteError, write_atomic
from mdr_repro.training.run_store import RunStore, StoreError
from mdr_repro.training.trainer import OutOfMemory, TrainingError, blocks, recomputing
from mdr_repro.use.command_line import main

OUT_OF_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def temporaries(folder):
    return sorted(p.name for p in Path(folder).rglob("*.tmp"))


def child(function, *args):
    "Start a function of this file in a process of its own."
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_faults as t;"
        f" t.{function}(*sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# disks


@pytest.fixture
def disk(monkeypatch):
    "A disk that is full when the n-th file of a name is pushed to it."
    real, full = os.fsync, {}

    def fsync(handle):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{handle}")).rsplit(".", 2)[0]
        if name in full:
            full[name] -= 1
            if full[name] <= 0:
                raise OUT_OF_SPACE
        return real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return full


@pytest.mark.parametrize(
    "name, occasion, epochs",
    [
        ("spec.json", 1, 0),
        ("checkpoint.pt", 1, 0),
        ("checkpoint.pt", 2, 1),
        ("metrics.jsonl", 2, 2),
        ("scores.npz", 1, 3),
        ("model.safetensors", 1, 3),
        ("result.json", 1, 3),
    ],
)
def test_a_full_disk_stops_the_command_and_costs_at_most_one_epoch(
    store, other, data, disk, name, occasion, epochs
):
    spec, begun = make_spec(data), []
    disk[name] = occasion
    with pytest.raises(
        WriteError,
        match=(
            "cannot be written to .*No space left.*; make room there, and give the same command"
            " again"
        ),
    ) as e:
        store.ensure(
            [spec, make_spec(data, seed=1)], progress=lambda spec, row: begun.append(spec.seed)
        )
    assert str(store.partial(spec)) in str(e.value) and "\n" not in str(e.value)
    assert store.status(spec) == "partial" and 1 not in begun and not temporaries(store.root)
    assert not (store.partial(spec) / "failed.json").exists()
    disk.clear()
    trained = []
    (record,) = store.ensure([spec], progress=lambda spec, row: trained.append(row["epoch"]))
    assert trained == list(range(epochs + 1, 4)) and record.result["resumed"] == (epochs > 0)
    assert_same_run(record, other.ensure([spec], progress=False)[0])


def test_a_worker_tells_of_a_full_disk_once(store, data, disk):
    specs, said = [make_spec(data, seed=seed) for seed in range(3)], []
    disk["checkpoint.pt"] = 2
    failed = work(store, specs, say=said.append)
    assert list(failed) == [specs[0].id] and "make room there" in failed[specs[0].id]
    assert [store.status(s) for s in specs] == ["partial", "missing", "missing"] and sum(
        line.startswith("FAILED") for line in said
    ) == 1
    disk.clear()
    assert work(store, specs, say=said.append) == {} and store.get(specs[0]).result["resumed"] == 1


def write_too_much(folder):
    "A file system that takes no more, as the system itself says it."
    import resource

    write_atomic(Path(folder) / "table.json", "old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        write_atomic(Path(folder) / "table.json", b"new" * 10_000)
    except WriteError as e:
        print(e)


def test_what_the_system_itself_refuses_leaves_the_old_file(tmp_path):
    out = ended(child("write_too_much", tmp_path))
    assert f"{tmp_path}: cannot be written to (File too large); make room there" in out
    assert (tmp_path / "table.json").read_text() == "old" and not temporaries(tmp_path)


@pytest.fixture
def read_only(monkeypatch):
    """Turns everything below a folder into a file system mounted read-only (the tests may run as
    root, whom no permission stops)."""

    def mount(root):
        def refusing(real):
            def call(path, *args, **kwargs):
                flags = next((a for a in args if isinstance(a, int)), 0)
                writes = (
                    real is os.mkdir
                    or real is os.replace
                    or flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
                )
                if writes and str(path).startswith(str(root)):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
                return real(path, *args, **kwargs)

            return call

        for name in ("open", "mkdir", "replace"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name)))

    return mount


def test_a_read_only_folder_still_gives_what_is_finished(store, data, read_only):
    done, missing = make_spec(data, schedule=Schedule(epochs=1, batch_size=8)), make_spec(data)
    result = store.ensure([done], progress=False)[0].result
    read_only(store.root)
    assert store.ensure([done], progress=False)[0].result == result
    with pytest.raises(
        WriteError,
        match=(
            "cannot be written to .Read-only file system.; see that it is a folder and may be"
            " written to"
        ),
    ) as e:
        store.ensure([done, missing], progress=False)
    assert "\n" not in str(e.value) and store.status(missing) == "missing"
    assert "may be written to" in work(store, [missing], say=str)[missing.id]


def test_a_file_in_place_of_a_folder_is_told_in_one_line(tmp_path, data, capsys, monkeypatch):
    (tmp_path / "settings.ini").touch()
    (tmp_path / "results").touch()
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "train",
                "--data",
                "tiny.npz",
                "--data-root",
                str(data),
                "--backbone",
                "test_dropped",
                "--epochs",
                "1",
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert (
        "results/runs/.locks: cannot be written to (Not a directory)" in said
        and said.count("\n") == 1
    )


# killed writers


def write_and_hang(folder):
    os.fsync = lambda handle: (Path(folder, "writing").touch(), time.sleep(600))
    write_atomic(Path(folder) / "table.json", "half of it")


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    process = child("write_and_hang", tmp_path)
    wait_for(tmp_path / "writing", process)
    (tmp_path / "table.backup.tmp").touch()  # somebody's own
    (left,) = [n for n in temporaries(tmp_path) if n != "table.backup.tmp"]
    write_atomic(tmp_path / "table.json", "whole")
    assert left in temporaries(tmp_path)
    process.kill()
    process.communicate()
    write_atomic(tmp_path / "table.json", "whole")
    assert (
        temporaries(tmp_path) == ["table.backup.tmp"]
        and (tmp_path / "table.json").read_text() == "whole"
    )


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    errors, texts = [], [str(i) * 50_000 for i in range(4)]

    def write(text):
        try:
            for _ in range(40):
                write_atomic(tmp_path / "table.json", text)
        except BaseException as e:
            errors.append(e)

    threads = [Thread(target=write, args=(text,)) for text in texts]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (
        not errors and (tmp_path / "table.json").read_text() in texts and not temporaries(tmp_path)
    )


def test_lock_files_without_an_owner_hold_nobody_up(store, data):
    spec = make_spec(data, schedule=Schedule(epochs=1, batch_size=8))
    for suffix in (".lock", ".claim"):
        path = Path(store.lock(spec).lock_file).with_suffix(suffix)
        path.write_text("4711\n")
        FileLock(path).acquire().lock.release()
    assert work(store, [spec], say=str) == {} and store.status(spec) == "done"


# changed bytes


def value(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_no_changed_byte_of_a_finished_run_goes_unnoticed(store, data):
    (record,) = store.ensure(
        [make_spec(data, schedule=Schedule(epochs=1, batch_size=8))], progress=False
    )
    for path in record.folder.iterdir():
        whole, r = path.read_bytes(), random.Random(0)
        for at in r.sample(range(len(whole)), 12):
            path.write_bytes(
                whole[:at] + bytes([whole[at] ^ 1 << r.randrange(8)]) + whole[at + 1 :]
            )
            if path.name == "result.json" and value(path.read_bytes()) == json.loads(whole):
                continue  # white space
            with pytest.raises(StoreError) as e:
                store.get(record.spec)
            assert str(path) in str(e.value) and "\n" not in str(e.value)
        path.write_bytes(whole)
    assert store.get(record.spec).result == record.result


@pytest.mark.parametrize("damage", ["a number", "cut short", "empty", "no archive"])
def test_a_damaged_checkpoint_is_laid_aside_and_the_run_begins_anew(
    store, other, data, damage, capsys
):
    spec = make_spec(data)
    path = partial_run(store, spec)
    whole = path.read_bytes()
    number = (
        trainer.unpack(torch.load(path, weights_only=True))["recognizer"]["backbone.first.weight"]
        .numpy()
        .tobytes()
    )
    at = whole.index(number)
    assert at > 0
    path.write_bytes(
        {
            "a number": whole[: at + 2] + bytes([whole[at + 2] ^ 1]) + whole[at + 3 :],
            "cut short": whole[:1000],
            "empty": b"",
            "no archive": b"x" * 1000,
        }[damage]
    )
    if damage == "a number":
        torch.load(path, weights_only=True)  # torch sees nothing
    epochs = []
    (record,) = store.ensure([spec], progress=lambda spec, row: epochs.append(row["epoch"]))
    assert f"{path}: damaged; laid aside as checkpoint.damaged" in capsys.readouterr().out
    assert (
        epochs == [1, 2, 3]
        and record.result["resumed"] == 0
        and not (record.folder / "checkpoint.damaged").exists()
    )
    assert_same_run(record, other.ensure([spec], progress=False)[0])


def test_a_damaged_mark_of_failure_is_named(store, data):
    spec = make_spec(data)
    path = partial_run(store, spec).with_name("failed.json")
    for text in ("{", "[]", "3"):
        path.write_text(text)
        assert store.status(spec) == "failed"
        with pytest.raises(TrainingError, match="failed.json") as e:
            store.ensure([spec], progress=False)
        assert "delete the folder" in str(e.value) and "\n" not in str(e.value)


# memory

SMALL = {"backbone": "mdr_gcn", "backbone_options": {"widths": (4, 4, 8)}, "objective": "softmax"}


@pytest.fixture
def memory(monkeypatch):
    """A device that holds `plain` clips, or `twice` clips if activations are computed twice; from
    step `since` on."""
    real, room = trainer.batch_loss, {"plain": 99, "twice": 99, "since": 0, "steps": []}

    def batch_loss(run, x, y):
        twice = "forward" in vars(next(blocks(run.recognizer.backbone)))
        room["steps"].append((len(x), twice))
        if len(room["steps"]) > room["since"] and len(x) > room["twice" if twice else "plain"]:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it."
            )
        return real(run, x, y)

    monkeypatch.setattr(trainer, "batch_loss", batch_loss)
    return room


# 5 batches an epoch: in the first, in the middle of the second
@pytest.mark.parametrize("since", [0, 7])
def test_a_run_without_enough_memory_is_trained_with_activations_computed_twice(
    store, other, data, memory, since, capsys
):
    spec = make_spec(data, **SMALL)
    memory.update(plain=4, since=since)
    (record,) = store.ensure([spec], progress=False)
    assert record.result["recomputed"] == 3 - since // 5 and record.result["batches"]["train"] == 5
    assert (
        f"{spec.label}: out of memory; once more, with activations computed twice"
        in capsys.readouterr().out
    )
    memory.update(plain=99)
    (plain,) = other.ensure([spec], progress=False)
    assert plain.result["recomputed"] == 0
    assert_same_run(record, plain)


def test_a_run_that_cannot_fit_says_what_would_and_waits_for_a_larger_device(
    store, other, data, memory
):
    spec = make_spec(data, **SMALL)
    smaller = replace(spec, schedule=Schedule(epochs=1, batch_size=5))
    partial_run(store, spec)
    memory.update(plain=3, twice=5)
    with pytest.raises(
        OutOfMemory,
        match=(
            "does not hold a batch of 8 clips, .* a batch of 5 would fit, but another batch size is"
            " another experiment .* the run goes on"
        ),
    ) as e:
        store.ensure([spec, smaller], progress=False)
    assert "\n" not in str(e.value)
    assert store.status(spec) == "partial" and not (store.partial(spec) / "failed.json").exists()
    assert store.status(smaller) == "done"  # the others are trained
    memory.update(twice=1)
    assert "not even a batch of 2 would fit" in work(store, [spec], say=str)[spec.id]
    memory.update(plain=99, twice=99)
    (record,) = store.ensure([spec], progress=False)
    assert (record.result["resumed"], record.result["recomputed"]) == (1, 0)
    assert_same_run(record, other.ensure([spec], progress=False)[0])


def test_a_joined_last_batch_has_to_fit_as_well(store, data, memory):
    spec = make_spec(
        data, **SMALL, schedule=Schedule(epochs=1, batch_size=16, lr=0.05, last_batch="join")
    )  # 38 clips: 16 and 22
    memory.update(plain=16, twice=22)
    assert store.ensure([spec], progress=False)[0].result["recomputed"] == 1
    memory["steps"].clear()
    memory.update(plain=0, twice=9)
    with pytest.raises(OutOfMemory, match="a batch of 8 would fit"):
        store.ensure([replace(spec, seed=1)], progress=False)
    # batches of 8, 12, 10 and 9 were tried: each by the largest that a pass would hold
    assert [n for n, _ in memory["steps"]][-4:] == [8, 14, 10, 11]
    memory.update(twice=7)
    with pytest.raises(OutOfMemory) as e:
        store.ensure([replace(spec, seed=2)], progress=False)
    size = int(re.search(r"a batch of (\d+) would fit", str(e.value))[1])
    assert max(batch_sizes(38, size, "join")) <= 7


def trained(net, x, y, twice):
    """Losses, weights, running statistics and random state after two steps, and the gradients of
    the last."""
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.01), []
    torch.manual_seed(1)
    with recomputing(net.backbone) if twice else nullcontext():
        for _ in range(2):
            optimizer.zero_grad()
            loss = net.loss(x, y)
            loss.backward()
            losses.append(loss.detach())
            optimizer.step()
    return {
        "losses": torch.stack(losses),
        **net.state_dict(),
        **{f"gradient of {k}": p.grad for k, p in net.named_parameters()},
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize("name", [n for n in backbones if not n.startswith("test_")])
def test_computing_activations_twice_changes_no_bit(name):
    x, y = (
        torch.randn(
            3, 3, 16, 17, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        ),
        torch.tensor([0, 1, 2]),
    )
    found = []
    for twice in (False, True):
        torch.manual_seed(0)
        backbone = tiny(name, "coco17", **({"size": 16, "frames": 8} if name == "posec3d" else {}))
        assert list(blocks(backbone))
        found.append(
            trained(
                Recognizer(backbone, Softmax(4, backbone.embedding_dim)).double().train(),
                x,
                y,
                twice,
            )
        )
        assert not any("forward" in vars(m) for m in backbone.modules())
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_is_too_small_trains_with_activations_computed_twice(tmp_path, data):
    spec = make_spec(
        data,
        backbone="mdr_gcn",
        backbone_options={"widths": (64,) * 10},
        objective="softmax",
        schedule=Schedule(epochs=1, batch_size=32, lr=0.01),
    )
    spec = replace(spec, sampling=replace(spec.sampling, num_frames=256))
    store, total = (
        RunStore(tmp_path / "gpu", data, device="cuda"),
        torch.cuda.get_device_properties(0).total_memory,
    )

    def room(bytes):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(bytes / total, 1.0))

    try:
        room(total)
        torch.cuda.reset_peak_memory_stats()
        (plain,) = RunStore(tmp_path / "plain", data, device="cuda").ensure([spec], progress=False)
        peak = torch.cuda.max_memory_reserved()
        room(0.6 * peak)
        (record,) = store.ensure([spec], progress=False)
        assert record.result["recomputed"] == 1 and plain.result["recomputed"] == 0
        assert abs(history(record)[0]["loss"] - history(plain)[0]["loss"]) < 1e-2
        room(0.05 * peak)
        with pytest.raises(OutOfMemory, match="would fit"):
            store.ensure([replace(spec, seed=1)], progress=False)
    finally:
        room(total)


# losses that are no longer finite


def test_a_diverged_run_keeps_its_history_and_stops_nobody(store, data):
    specs, said = (
        [make_spec(data, objective="test_breaks"), make_spec(data), make_spec(data, seed=1)],
        [],
    )
    assert work(store, specs, say=said.append) == {}
    assert [store.status(s) for s in specs] == ["diverged", "done", "done"] and sum(
        line.startswith("DIVERGED") for line in said
    ) == 1
    assert len((store.partial(specs[0]) / "metrics.jsonl").read_text().splitlines()) == 2


# clocks


def test_a_clock_that_is_set_changes_nothing(store, other, data, monkeypatch):
    spec, r = make_spec(data), random.Random(0)
    (plain,) = other.ensure([spec], progress=False)
    monkeypatch.setattr(time, "time", lambda: r.uniform(-1e9, 4e9))
    monkeypatch.setattr(time, "time_ns", lambda: r.randrange(4 * 10**18))
    (record,) = store.ensure([spec], max_minutes=10, progress=False)
    assert_same_run(record, plain)
    assert all(
        0 <= row["seconds"] < 60
        for row in map(json.loads, (record.folder / "metrics.jsonl").read_text().splitlines())
    )
    assert 0 <= record.seconds < 60


def test_no_module_asks_for_the_time_of_day_but_to_write_it_down(root):
    asked = {}
    for path in sorted((root / "mdr_repro").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if name in (
                "time.time",
                "time.time_ns",
                "datetime.now",
                "datetime.utcnow",
                "datetime.today",
                "date.today",
            ):
                asked.setdefault(path.name, []).append(name)
    # the dates of a table and of a bench
    assert asked == {"results.py": ["datetime.now"], "speed.py": ["datetime.now"]}


# other versions


def test_a_newer_versions_run_is_neither_read_nor_trained_over(store, data, capsys):
    spec = make_spec(data, schedule=Schedule(epochs=1, batch_size=8))
    (record,) = store.ensure([spec], progress=False)
    path = record.folder / "result.json"
    path.write_text(json.dumps({**record.result, "format": 2, "top_one": 1.0, "files": None}))
    before = {p.name: p.read_bytes() for p in record.folder.iterdir()}
    for ask in (store.get, lambda s: store.ensure([s], progress=False)):
        with pytest.raises(
            StoreError,
            match=(
                "result.json: of format 2, and this version reads 1: a newer version of the package"
                " wrote it; update the package"
            ),
        ) as e:
            ask(spec)
        assert "\n" not in str(e.value)
    assert {p.name: p.read_bytes() for p in record.folder.iterdir()} == before


def test_a_newer_versions_spec_and_checkpoint_are_refused(store, data, tmp_path, capsys):
    spec = make_spec(data)
    newer = {**json.loads(spec.canonical()), "format": 2, "mixture": 0.5}
    with pytest.raises(
        ValueError,
        match=(
            "format: 2 is not 1, the only one this version reads; a newer version .* update the"
            " package"
        ),
    ):
        RunSpec.from_json(json.dumps(newer))
    with pytest.raises(ValueError, match="RunSpec has no field 'mixture'; known: data"):
        RunSpec.from_json(json.dumps({**newer, "format": 1}))
    (tmp_path / "list").write_text(json.dumps(newer) + "\n")
    assert main(["work", "--runs", str(tmp_path / "list"), "--results-root", str(store.root)]) == 2
    said = capsys.readouterr().err
    assert "update the package" in said and said.count("\n") == 1
    path = partial_run(store, spec)
    torch.save({**torch.load(path, weights_only=True), "format": 3}, path)
    before = path.read_bytes()
    with pytest.raises(
        TrainingError,
        match="of format 3, not 2: another version of the package wrote it; update the package",
    ):
        store.ensure([spec], progress=False)
    assert path.read_bytes() == before and store.status(spec) == "partial"
