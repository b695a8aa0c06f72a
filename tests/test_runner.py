"The runner with real kernels: what a notebook of this project cannot show about itself."

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from shutil import rmtree

import psutil
import pytest

from mdr_repro.study import runner
from mdr_repro.study.cells import EXPERIMENTS, experiment_specs
from mdr_repro.study.measure import keep_records, open_store
from mdr_repro.study.profiles import PROFILES
from mdr_repro.study.runner import NO_TIME, RunnerError, papermill_command, reproduce
from mdr_repro.use.command_line import main

WRITE = (
    "folder = Path(results_root, profile); folder.mkdir(parents=True, exist_ok=True); (folder /"
    " 'seeds.json').write_text(json.dumps(seeds))"
)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def bare_papermill(notebook, *arguments):
    "Papermill as a reader calls it."
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            str(notebook),
            "out.ipynb",
            "-k",
            "python3",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_papermill_alone_takes_good_parameters(project):
    run = bare_papermill(project("table_91", WRITE), "-p", "seeds", "4")
    assert run.returncode == 0, run.stderr
    assert json.loads((project.root / "results/smoke/seeds.json").read_text()) == 4


@pytest.mark.parametrize(
    "arguments, tags, said",
    [
        (("-p", "sedes", "4"), ("parameters",), "did you mean seeds?"),
        (("-p", "seeds", "four"), ("parameters",), "must be of type int"),
        (("-p", "seeds", "4"), (), "lost or on another cell"),
    ],
)
def test_papermill_alone_refuses_what_would_not_count(project, arguments, tags, said):
    run = bare_papermill(project("table_91", WRITE, tags=tags), *arguments)
    assert run.returncode != 0 and said in run.stderr
    assert not (project.root / "results").exists()


def test_nothing_runs_if_one_notebook_is_wrong(project):
    project("table_91", WRITE)
    project("table_92", "for seeds in range(3): pass")
    with pytest.raises(
        RunnerError, match="table_92.ipynb: the cell that starts with .* assigns seeds again"
    ):
        reproduce()
    with pytest.raises(RunnerError, match="did you mean table_91"):
        reproduce(only=["tabel_91"])
    assert not (project.root / "results").exists()


def test_others_run_when_one_fails_and_a_second_call_does_only_that_one(project):
    project("table_91", WRITE)
    project("table_92", "raise ValueError('two\\nlines')")
    lines = []
    first = {o.id: o for o in reproduce(seeds=5, jobs=2, say=lines.append)}
    assert (first["table_91"].status, first["table_92"].status) == ("done", "failed")
    # imports, parameters, injected, check, this
    assert first["table_92"].message == "In [5]: ValueError: two lines"
    assert (project.root / "results/smoke/table_92/table_92.failed.ipynb").is_file() and not (
        project.root / "results/smoke/table_92/table_92.ipynb"
    ).exists()
    assert len(lines) == 2 and any("FAILED" in line and "two lines" in line for line in lines)

    project("table_92", WRITE)  # mended
    second = {o.id: o.status for o in reproduce(seeds=5, say=lines.append)}
    assert second == {"table_91": "unchanged", "table_92": "done"}
    assert not (project.root / "results/smoke/table_92/table_92.failed.ipynb").exists()


def test_outputs_that_are_gone_are_made_again(project):
    project("table_91", "(Path(results_root, profile, 'table_91') / 'table.json').write_text('1')")
    folder = project.root / "results/smoke/table_91"
    reproduce(say=str)
    assert [o.status for o in reproduce(say=str)] == ["unchanged"]
    (folder / "table_91.ipynb").write_text("{")
    assert [o.status for o in reproduce(say=str)] == ["done"]
    (folder / "table.json").unlink()
    assert [o.status for o in reproduce(say=str)] == ["done"] and (folder / "table.json").exists()


def test_two_jobs_run_at_once(project):
    meet = (
        "Path('{0}').touch()\nend = time.time() + 60\nwhile not Path('{1}').exists():\n    assert"
        " time.time() < end, 'alone'\n    time.sleep(0.1)"
    )
    project("table_91", meet.format("a", "b"))
    project("table_92", meet.format("b", "a"))
    assert [o.status for o in reproduce(jobs=2, say=str)] == ["done", "done"]


def test_a_kernel_that_lost_its_port_is_started_again(project, monkeypatch):
    project("table_91", WRITE)
    real, calls = runner.start, []

    def start(job, root, threads):
        calls.append(job.id)
        if len(calls) > 1:
            return real(job, root, threads)
        job.folder.mkdir(parents=True)
        job.log.write_text("RuntimeError: Kernel died before replying to kernel_info")
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    monkeypatch.setattr(runner, "start", start)
    assert [o.status for o in reproduce(say=str)] == ["done"] and len(calls) == 2


def test_the_rest_of_the_time_goes_to_the_notebook(project):
    project("table_91", "Path('left').write_text(str(max_minutes))")
    reproduce(max_minutes=3.0, say=str)
    assert 2.5 < float((project.root / "left").read_text()) <= 3.0
    assert [o.status for o in reproduce(say=str)] == ["unchanged"]  # a time limit changes no result


def test_a_papermill_that_is_killed_leaves_no_result(project):
    project("table_91", "Path('pid').write_text(str(os.getppid()))", "time.sleep(60)")
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from mdr_repro.study.runner import reproduce; print([o.message for o in reproduce()])",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    until(lambda: (project.root / "pid").exists() and (project.root / "pid").read_text())
    os.kill(int((project.root / "pid").read_text()), signal.SIGKILL)
    assert "cut off before its end" in driver.communicate(timeout=60)[0]
    folder = project.root / "results/smoke/table_91"
    assert not (folder / "table_91.ipynb").exists() and (folder / "table_91.failed.ipynb").exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_no_kernel_behind(project, sign):
    project("table_91", "Path('pid').write_text(str(os.getpid()))", "time.sleep(60)")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from"
        " mdr_repro.use.command_line import main; raise SystemExit(main(['reproduce']))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    until(lambda: (project.root / "pid").exists() and (project.root / "pid").read_text())
    kernel = int((project.root / "pid").read_text())
    driver.send_signal(sign)
    assert "goes on from there" in driver.communicate(timeout=60)[1] and driver.returncode == 130
    until(lambda: not alive(kernel), 10)
    assert not (project.root / "results/smoke/table_91/table_91.ipynb").exists()


def test_the_command_always_names_kernel_and_language():
    command = papermill_command("in.ipynb", "out.ipynb", {"seeds": 3, "data_root": "a b"})
    assert (
        command[command.index("-k") + 1] == "python3"
        and command[command.index("--language") + 1] == "python"
        and "--log-output" in command
    )
    assert json.loads(command[command.index("-y") + 1]) == {"seeds": 3, "data_root": "a b"}


# trainings and notebooks

TINY = """
from dataclasses import replace
from mdr_repro.clips.sampling import Sampling
from mdr_repro.study.cells import EXPERIMENTS, Cell
from mdr_repro.study.profiles import PROFILES, Profile, get_profile
from mdr_repro.training.run_spec import Schedule

def shrink(slot):
    return replace(
        slot,
        data="synthetic:num_clips=24,num_classes=3,skeleton=coco17,dims=2",
        width=1 / 32,
        sampling=Sampling(num_frames=8),
        schedule=Schedule(epochs=12, batch_size=8, lr=0.01),
    )

slots = {name: shrink(slot) for name, slot in get_profile("smoke").slots.items()}
PROFILES["tiny"] = Profile("tiny", "a test", 1, slots)

def cells(*rows):
    def of(profile):
        return [Cell(row, "Accuracy(%)", "fsd10", {"objective": row}) for row in rows]
    return of

EXPERIMENTS |= {"table_91": cells("softmax", "rdl"), "table_92": cells("rdl", "center")}
"""
MEASURE = """import tiny
from mdr_repro.study.cells import experiment_specs
from mdr_repro.study.measure import keep_records, open_store, train_missing
store, found = open_store(results_root), {{}}
for spec in experiment_specs("{0}", profile):
    train_missing(store, [spec], max_minutes)
    found[spec.id] = (record := store.get(spec)) and record.result["top1"]
(Path(results_root, profile, "{0}") / "table.json").write_text(json.dumps(found))"""
HOLD = "Path('kernel').write_text(str(os.getpid()))\nwhile Path('hold').exists(): time.sleep(0.1)"


@pytest.fixture
def tiny(project, monkeypatch):
    """Two notebooks that share one of their three runs of a few seconds, and a driver that a test
    can kill."""
    for table in (EXPERIMENTS, PROFILES):
        for name in ("tiny", "table_91", "table_92"):
            monkeypatch.setitem(table, name, None), monkeypatch.delitem(table, name)
    (project.root / "tiny.py").write_text(TINY)
    monkeypatch.syspath_prepend(str(project.root))
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    importlib.import_module("tiny")
    project("table_91", MEASURE.format("table_91"))
    project("table_92", HOLD, MEASURE.format("table_92"))
    code = (
        "import tiny; from mdr_repro.study.runner import reproduce; print([o.status for o in"
        " reproduce('tiny', results_root='{}', jobs=2)])"
    )
    drivers = []

    def drive(results="results"):
        drivers.append(
            subprocess.Popen(
                [sys.executable, "-c", code.format(results)], stdout=subprocess.PIPE, text=True
            )
        )
        return drivers[-1]

    project.drive = drive
    project.store = open_store("results")
    project.specs = {
        s.id: s for id in ("table_91", "table_92") for s in experiment_specs(id, "tiny")
    }
    project.read = lambda id, results="results": json.loads(
        (project.root / results / "tiny" / id / "table.json").read_text()
    )
    yield project
    for driver in drivers:
        driver.kill(), driver.communicate()
    monkeypatch.delitem(sys.modules, "tiny", raising=False)


def kill_all_at_once(driver):
    "kill -9 of the command; whatever it had started is gone soon after."
    family = psutil.Process(driver.pid).children(recursive=True)
    assert family
    driver.kill()
    driver.communicate(timeout=60)
    until(
        lambda: (
            not any(
                map(
                    psutil.pid_exists,
                    (
                        p.pid
                        for p in family
                        if p.is_running() and p.status() != psutil.STATUS_ZOMBIE
                    ),
                )
            )
        ),
        60,
    )


def test_shared_runs_are_trained_once_before_the_notebooks(tiny, monkeypatch):
    lines = []
    monkeypatch.setattr("mdr_repro.study.runner.SIGN_OF_LIFE", 0.0)
    assert {o.id: o.status for o in reproduce("tiny", jobs=2, say=lines.append)} == {
        "table_91": "done",
        "table_92": "done",
    }
    assert len(tiny.specs) == 3 and any(
        line.startswith("training  3 of 3 missing runs done") for line in lines
    )
    assert any("of 3 runs trained in" in line and "now: run 1 of 3" in line for line in lines)
    one, two = tiny.read("table_91"), tiny.read("table_92")
    assert {**one, **two} == {
        s: tiny.store.get(tiny.specs[s]).result["top1"] for s in tiny.specs
    } and len(one.keys() & two.keys()) == 1
    assert [o.status for o in reproduce("tiny", say=lines.append)] == ["unchanged"] * 2


def test_what_is_recorded_is_not_trained_again_on_another_machine(tiny):
    lines = []
    assert [o.status for o in reproduce("tiny", jobs=2, say=str)] == ["done", "done"]
    first = {id: tiny.read(id) for id in ("table_91", "table_92")}
    kept = keep_records(tiny.store, "tiny", ["table_91", "table_92"])
    assert len(kept) == 3 and {k.parent for k in kept} == {tiny.root / "results/tiny/records"}
    (tiny.root / "results/runs").rename(tiny.root / "weights")  # they stay where they were trained
    for id in first:
        (tiny.root / f"results/tiny/{id}/table.json").unlink()
    assert {o.status for o in reproduce("tiny", jobs=2, say=lines.append)} == {"done"}
    assert {id: tiny.read(id) for id in first} == first and not any(
        "training" in line for line in lines
    )
    assert not list((tiny.root / "results").glob("runs/[0-9a-f]*"))
    rmtree(kept[0])
    assert {o.status for o in reproduce("tiny", jobs=2, say=lines.append)} <= {"done", "unchanged"}
    assert (
        any(line.startswith("training  1 of 1 missing runs done") for line in lines)
        and {id: tiny.read(id) for id in first} == first
    )


def test_killed_in_training_and_in_a_notebook_it_ends_with_the_same_numbers(tiny):
    (tiny.root / "hold").touch()
    driver = tiny.drive()
    until(
        lambda: any(
            0 < len(p.read_text().splitlines()) < 12
            for p in (tiny.root / "results/runs/.partial").glob("*/metrics.jsonl")
        )
    )
    kill_all_at_once(driver)
    assert any(tiny.store.status(s) == "partial" for s in tiny.specs.values())

    driver = tiny.drive()
    until(lambda: (tiny.root / "kernel").exists())
    assert all(tiny.store.status(s) == "done" for s in experiment_specs("table_92", "tiny"))
    kill_all_at_once(driver)
    assert not (tiny.root / "results/tiny/table_92/table_92.ipynb").exists()

    (tiny.root / "hold").unlink()
    assert tiny.drive().wait(300) == 0 and tiny.drive("other").wait(300) == 0
    for id in ("table_91", "table_92"):
        assert tiny.read(id) == tiny.read(id, "other") and None not in tiny.read(id).values()
    assert sum(tiny.store.get(s).result["resumed"] for s in tiny.specs.values()) >= 1
    assert not list((tiny.root / "results").rglob("*.running.ipynb"))


def test_time_that_is_up_leaves_measuring_and_the_next_call_the_rest(tiny):
    assert [o.status for o in reproduce("tiny", max_minutes=1e-4, jobs=2, say=str)] == [
        "done",
        "done",
    ]
    assert set(tiny.read("table_91").values()) == {None}
    executed = json.loads((tiny.root / "results/tiny/table_91/table_91.ipynb").read_text())
    assert executed["metadata"]["papermill"]["parameters"]["max_minutes"] == NO_TIME
    assert [o.status for o in reproduce("tiny", jobs=2, say=str)] == [
        "done",
        "done",
    ] and None not in tiny.read("table_91").values()


def test_a_failed_run_and_a_failed_notebook_stop_nothing_else(tiny, monkeypatch, capsys):
    for slot, own in PROFILES["tiny"].slots.items():
        monkeypatch.setitem(
            PROFILES["tiny"].slots, slot, replace(own, schedule=replace(own.schedule, epochs=1))
        )
    spec = experiment_specs("table_92", "tiny")[1]
    folder = open_store("results").partial(spec)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(spec.canonical())
    (folder / "failed.json").write_text('{"error": "the loss is no longer finite", "epoch": 1}')
    tiny("table_91", "kept = 41 + 1; kept", "raise ValueError('in the middle')", "1")
    tiny("table_92", "Path('ran').touch()")
    assert main(["reproduce", "--profile", "tiny", "--jobs", "2"]) == 1
    said = capsys.readouterr().out
    assert (
        "training  2 of 3 missing runs done" in said
        and f"FAILED {spec.id}" in said
        and "no longer finite" in said
    )
    assert "table_91  FAILED" in said and (tiny.root / "ran").exists()
    partial = json.loads((tiny.root / "results/tiny/table_91/table_91.failed.ipynb").read_text())
    assert any(
        "".join(o.get("data", {}).get("text/plain", "")) == "42"
        for c in partial["cells"]
        for o in c.get("outputs", [])
    )
    assert "in the middle" in (tiny.root / "results/tiny/index.html").read_text()
