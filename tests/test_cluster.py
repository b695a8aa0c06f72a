"Runs on a dask cluster: the same numbers as without it, whoever is killed."

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mdr_repro.clips.sampling import Sampling
from mdr_repro.clips.sources import source_checksum
from mdr_repro.study import many_machines as cluster
from mdr_repro.study.cells import EXPERIMENTS, Cell, experiment_specs
from mdr_repro.study.many_machines import begin_on_cluster, on_cluster, train_on_cluster
from mdr_repro.study.profiles import PROFILES, Profile, get_profile
from mdr_repro.study.runner import RunnerError, reproduce
from mdr_repro.training.run_spec import Schedule
from mdr_repro.training.run_store import RunStore

SOURCE = "synthetic:num_clips=24,num_classes=3,skeleton=coco17,dims=2"


def runs(count, epochs):
    "Small runs that differ in their seed."
    spec = replace(
        get_profile("smoke").spec("fsd10", backbone="st_gcn", objective="softmax"),
        data=SOURCE,
        data_checksum=source_checksum(SOURCE),
        sampling=Sampling(num_frames=8),
        schedule=Schedule(epochs, 8, lr=0.01),
    )
    return [replace(spec, seed=seed) for seed in range(count)]


def numbers(record):
    "All that a run measured but the seconds; its scores and weights by their sha256."
    r = record.result
    return (
        record.metrics.drop(columns="seconds").to_dict("records"),
        r["top1"],
        r["mean_class"],
        r["per_class"],
        r["files"]["scores.npz"],
        r["files"]["model.safetensors"],
        r["threads"],
    )


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(processes):
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_two_of_three_workers_are_killed_and_the_numbers_are_the_same(tmp_path):
    specs, alone, shared, said = (
        runs(5, 12),
        RunStore(tmp_path / "alone"),
        RunStore(tmp_path / "shared"),
        [],
    )
    expected = [numbers(r) for r in alone.ensure(specs, progress=False)]
    training = begin_on_cluster(shared, specs, workers=3, say=said.append)
    try:
        pids = training.desk.client.run(os.getpid)
        assert len(pids) == 3 and os.getpid() not in pids.values()
        victims = []

        def begun_ones():
            return [
                s
                for s in list(training.desk.seats.values())
                if s.spec and s.address in pids and 0.0 < cluster.begun(shared, s.spec) < 0.8
            ]

        for _ in range(2):
            until(lambda: [s for s in begun_ones() if s.address not in victims])
            seat = next(s for s in begun_ones() if s.address not in victims)
            victims.append(seat.address)
            os.kill(pids[seat.address], signal.SIGKILL)
        until(lambda: not training.alive())
    finally:
        training.stop()
    assert [numbers(r) for r in map(shared.get, specs)] == expected
    assert training.failures() == [] and training.done() == 5
    lost, done = (
        [line for line in said if line.startswith(start)] for start in ("lost the worker", "done")
    )
    assert len(lost) == 2 and all(any(address in line for line in lost) for address in victims)
    # each once
    assert sorted(line.split(",")[0] for line in done) == sorted(f"done {s.id}" for s in specs)
    assert sum(shared.get(s).result["resumed"] for s in specs) >= 1
    order = [line.rpartition("seed ")[2] for line in said if line.startswith("run ")]
    # the most valuable first, a lost one before those after it
    assert list(dict.fromkeys(order)) == [str(s.seed) for s in specs]
    assert (
        not list((tmp_path / "shared/runs/.partial").iterdir())
        and not (tmp_path / "shared/runs/.cluster").exists()
    )
    assert gone(
        p
        for p in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(p.cmdline())
    )


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    "A scheduler as the page starts it, and a function that adds a worker; all end with the tests."
    folder, processes = tmp_path_factory.mktemp("dask"), []
    command = Path(sys.executable).parent / "dask"

    def start(*arguments, **environment):
        processes.append(
            subprocess.Popen(
                [command, *arguments],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        )
        return processes[-1]

    start(
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        "scheduler.json",
    )
    until(
        lambda: (
            (folder / "scheduler.json").exists() and (folder / "scheduler.json").read_text().strip()
        )
    )
    start.address = json.loads((folder / "scheduler.json").read_text())["address"]
    start.worker = lambda **environment: start(
        "worker",
        start.address,
        "--nthreads",
        "1",
        "--memory-limit",
        "0",
        "--no-dashboard",
        **environment,
    )
    yield start
    for p in processes:
        p.terminate()
    for p in processes:
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:
            p.kill()


def end(process):
    process.terminate()
    process.wait(20)


def test_a_worker_that_comes_late_trains_and_one_with_other_code_does_not(dask, tmp_path, root):
    """The command waits for workers; one whose package differs is turned away with a sentence, at
    the start and later."""
    shutil.copytree(
        root / "mdr_repro",
        tmp_path / "other" / "mdr_repro",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    with (tmp_path / "other/mdr_repro/skeleton.py").open("a") as module:
        module.write("# changed\n")
    store, specs, said = RunStore(tmp_path / "results"), runs(2, 1), []
    bad = dask.worker(PYTHONPATH=str(tmp_path / "other"))
    training = begin_on_cluster(store, specs, dask.address, say=said.append)
    try:
        until(lambda: any(line.startswith("not used: the worker") for line in said))
        good = dask.worker()
        until(lambda: not training.alive())
    finally:
        training.stop()
    assert (
        "no worker is there yet" in said[1]
        and f"`dask worker {dask.address} --nthreads 1`" in said[1]
    )
    assert any("runs other code of mdr_repro; bring it to this revision" in line for line in said)
    assert [store.status(s) for s in specs] == ["done"] * 2 and training.failures() == []
    with pytest.raises(
        RunnerError, match=r"^The worker tcp://\S+ on \S+ runs other code of mdr_repro"
    ):
        begin_on_cluster(store, specs, dask.address, say=str)
    end(bad), end(good)


def test_time_that_is_up_leaves_the_rest(dask, tmp_path):
    worker, store, specs, said = dask.worker(), RunStore(tmp_path), runs(2, 500), []
    assert train_on_cluster(store, specs, dask.address, max_minutes=0.1, say=said.append) == {}
    assert {store.status(s) for s in specs} <= {"partial", "missing"} and not any(
        line.startswith(("lost", "done")) for line in said
    )
    end(worker)


STOP = """
import sys
from mdr_repro.use.command_line import terminable
from mdr_repro.study.many_machines import train_on_cluster
from mdr_repro.training.run_spec import RunSpec
from mdr_repro.training.run_store import RunStore

if __name__ == "__main__":
    specs = [RunSpec.from_json(line) for line in open("runs.txt")]
    try:
        with terminable(): train_on_cluster(RunStore("results"), specs, workers=1, say=str)
    except KeyboardInterrupt: sys.exit(130)
"""


def test_workers_share_the_cores_where_nobody_has_set_the_threads(tmp_path):
    "dask sets OMP_NUM_THREADS in the command's own process; that is not the user's wish."
    (tmp_path / "settings.ini").touch()
    (tmp_path / "runs.txt").write_text("".join(s.canonical() + "\n" for s in runs(2, 1)))
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [
        sys.executable,
        "-c",
        "from mdr_repro.use.command_line import main; raise SystemExit(main())",
        "work",
        "--runs",
        "runs.txt",
        "--workers",
        "4",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "2 of 2 runs done, 0 failed\n" in done.stdout, (
        done.stdout + done.stderr
    )
    found = [
        json.loads(p.read_text())["threads"] for p in tmp_path.glob("results/runs/*/result.json")
    ]
    assert found == [max(1, cluster.cores() // 4)] * 2


@pytest.mark.parametrize("sign, status", [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_an_ended_command_leaves_no_worker_behind(tmp_path, sign, status):
    specs, store = runs(1, 500), RunStore(tmp_path / "results")
    (tmp_path / "runs.txt").write_text("".join(s.canonical() + "\n" for s in specs))
    (tmp_path / "stop.py").write_text(STOP)
    driver = subprocess.Popen([sys.executable, "stop.py"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    until(lambda: all(cluster.begun(store, s) for s in specs))
    family = psutil.Process(driver.pid).children(recursive=True)
    assert family
    driver.send_signal(sign)
    assert driver.wait(30) == status
    until(lambda: gone(family), 30)
    assert store.status(specs[0]) == "partial"
    with store.lock(specs[0]).acquire(timeout=0):
        pass
    if sign == signal.SIGTERM:
        assert not (tmp_path / "results/runs/.cluster").exists()


def test_reproduce_on_a_cluster(project, monkeypatch):
    """The notebook starts when the trainings have ended; a run that fails is an outcome, and stops
    nothing."""
    slot = replace(
        get_profile("smoke").slot("fsd10"),
        data=SOURCE,
        sampling=Sampling(num_frames=8),
        schedule=Schedule(1, 8, lr=0.01),
    )
    monkeypatch.setitem(PROFILES, "tiny", Profile("tiny", "a test", 1, {"fsd10": slot}))
    monkeypatch.setitem(
        EXPERIMENTS,
        "table_91",
        lambda profile: [
            Cell(row, "Accuracy(%)", "fsd10", {"backbone": "st_gcn", "objective": row})
            for row in ("softmax", "rdl", "center")
        ],
    )
    project(
        "table_91",
        "(Path(results_root, profile) / 'runs.txt').write_text(str(len(list(Path(results_root,"
        " 'runs').glob('*/result.json')))))",
    )
    specs, store, said, lines = experiment_specs("table_91", "tiny"), RunStore("results"), [], []
    broken = store.partial(specs[1])
    broken.mkdir(parents=True)
    (broken / "spec.json").write_text(specs[0].canonical())
    outcomes = {
        o.id: o
        for o in reproduce("tiny", say=lines.append, begin=on_cluster(workers=1, say=said.append))
    }
    assert (
        outcomes["table_91"].status == "done"
        and (project.root / "results/tiny/runs.txt").read_text() == "2"
    )
    assert (
        outcomes["training"].status == "failed"
        and specs[1].id in outcomes["training"].message
        and "belongs to another spec" in outcomes["training"].message
    )
    assert [store.status(s) for s in specs] == ["done", "partial", "done"] and any(
        line.startswith("training  2 of 3 missing runs done") for line in lines
    )
    with pytest.raises(RunnerError, match="runs_per_device is for the processes of one machine"):
        reproduce("tiny", runs_per_device=2, say=str, begin=on_cluster(workers=2))


def test_a_wrong_address_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    for address in ("tcp://127.0.0.1:1", "nowhere.invalid:8786", "ftp://a:1"):
        with pytest.raises(RunnerError) as error:
            train_on_cluster(RunStore(tmp_path), runs(1, 1), address)
        assert str(error.value).startswith(
            f"no dask scheduler answers at {address} ("
        ) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunnerError) as error:
        train_on_cluster(RunStore(tmp_path), runs(1, 1), workers=2)
    assert str(error.value) == 'dask.distributed is not installed; pip install "mdr_repro[cluster]"'
