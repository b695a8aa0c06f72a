"The runner with real kernels: what a notebook of this project cannot show about itself."
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mdr_repro.reproduction.runner import RunnerError, papermill_command, reproduce

WRITE = "folder = Path(results_root, profile); folder.mkdir(parents=True, exist_ok=True); (folder / 'seeds.json').write_text(json.dumps(seeds))"


def alive(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    return True


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def bare_papermill(notebook, *arguments):
    "Papermill as a reader calls it."
    return subprocess.run([sys.executable, "-m", "papermill", str(notebook), "out.ipynb", "-k", "python3", *arguments], capture_output=True, text=True, timeout=120)


def test_papermill_alone_takes_good_parameters(project):
    run = bare_papermill(project("table_91", WRITE), "-p", "seeds", "4")
    assert run.returncode == 0, run.stderr
    assert json.loads((project.root / "results/smoke/seeds.json").read_text()) == 4


@pytest.mark.parametrize("arguments, tags, said", [
    (("-p", "sedes", "4"), ("parameters",), "did you mean seeds?"),
    (("-p", "seeds", "four"), ("parameters",), "must be of type int"),
    (("-p", "seeds", "4"), (), "lost or on another cell"),
])
def test_papermill_alone_refuses_what_would_not_count(project, arguments, tags, said):
    run = bare_papermill(project("table_91", WRITE, tags=tags), *arguments)
    assert run.returncode != 0 and said in run.stderr
    assert not (project.root / "results").exists()


def test_nothing_runs_if_one_notebook_is_wrong(project):
    project("table_91", WRITE)
    project("table_92", "for seeds in range(3): pass")
    with pytest.raises(RunnerError, match="table_92.ipynb: the cell that starts with .* assigns seeds again"): reproduce()
    with pytest.raises(RunnerError, match="did you mean table_91"): reproduce(only=["tabel_91"])
    assert not (project.root / "results").exists()


def test_others_run_when_one_fails_and_a_second_call_does_only_that_one(project):
    project("table_91", WRITE)
    project("table_92", "raise ValueError('two\\nlines')")
    lines = []
    first = {o.id: o for o in reproduce(seeds=5, jobs=2, say=lines.append)}
    assert (first["table_91"].status, first["table_92"].status) == ("done", "failed")
    assert first["table_92"].message == "In [5]: ValueError: two lines"  # imports, parameters, injected, check, this
    assert (project.root / "results/smoke/table_92/table_92.failed.ipynb").is_file() and not (project.root / "results/smoke/table_92/table_92.ipynb").exists()
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
    meet = "Path('{0}').touch()\nend = time.time() + 60\nwhile not Path('{1}').exists():\n    assert time.time() < end, 'alone'\n    time.sleep(0.1)"
    project("table_91", meet.format("a", "b"))
    project("table_92", meet.format("b", "a"))
    assert [o.status for o in reproduce(jobs=2, say=str)] == ["done", "done"]


def test_the_rest_of_the_time_goes_to_the_notebook(project):
    project("table_91", "Path('left').write_text(str(max_minutes))")
    reproduce(max_minutes=3.0, say=str)
    assert 2.5 < float((project.root / "left").read_text()) <= 3.0
    assert [o.status for o in reproduce(say=str)] == ["unchanged"]  # a time limit changes no result


def test_a_papermill_that_is_killed_leaves_no_result(project):
    project("table_91", "Path('pid').write_text(str(os.getppid()))", "time.sleep(60)")
    driver = subprocess.Popen([sys.executable, "-c", "from mdr_repro.reproduction.runner import reproduce; print([o.message for o in reproduce()])"], stdout=subprocess.PIPE, text=True)
    until(lambda: (project.root / "pid").exists() and (project.root / "pid").read_text())
    os.kill(int((project.root / "pid").read_text()), signal.SIGKILL)
    assert "cut off before its end" in driver.communicate(timeout=60)[0]
    folder = project.root / "results/smoke/table_91"
    assert not (folder / "table_91.ipynb").exists() and (folder / "table_91.failed.ipynb").exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_no_kernel_behind(project, sign):
    project("table_91", "Path('pid').write_text(str(os.getpid()))", "time.sleep(60)")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from mdr_repro.cli import main; raise SystemExit(main(['reproduce']))"
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    until(lambda: (project.root / "pid").exists() and (project.root / "pid").read_text())
    kernel = int((project.root / "pid").read_text())
    driver.send_signal(sign)
    assert "goes on from there" in driver.communicate(timeout=60)[1] and driver.returncode == 130
    until(lambda: not alive(kernel), 10)
    assert not (project.root / "results/smoke/table_91/table_91.ipynb").exists()


def test_the_command_always_names_kernel_and_language():
    command = papermill_command("in.ipynb", "out.ipynb", {"seeds": 3, "data_root": "a b"})
    assert command[command.index("-k") + 1] == "python3" and command[command.index("--language") + 1] == "python" and "--log-output" in command
    assert json.loads(command[command.index("-y") + 1]) == {"seeds": 3, "data_root": "a b"}
