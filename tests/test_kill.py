"A few kills and two commands at once; `tests/kill.py` is the long form."

import json
import sys

import pytest
from kill import Hunt, differences, hunt_down, names, plain, undisturbed
from test_runner import MEASURE, TINY

SHORT = TINY.replace("epochs=12", "epochs=6")
COMMAND = (
    "import tiny; from mdr_repro.study.runner import reproduce; raise SystemExit(any(o.status =="
    " 'failed' for o in reproduce('tiny', only=['table_91'], results_root='{}', jobs=2)))"
)


def making(results):
    for path in (results / "runs/.partial").glob("*"):
        try:
            yield path.name, path.stat().st_ino
        except FileNotFoundError:
            pass  # just moved to its place


@pytest.fixture
def hunt(project):
    "A project with one small table of two runs, and what chases its reproduction in a folder."
    (project.root / "tiny.py").write_text(SHORT)
    project("table_91", MEASURE.format("table_91"))
    hunts, said = [], []

    def make(name, seed=0):
        hunts.append(
            Hunt(
                [sys.executable, "-c", COMMAND.format(name)],
                project.root / name,
                root=project.root,
                seed=seed,
                say=said.append,
            )
        )
        return hunts[-1]

    make.said, make.root = said, project.root
    yield make
    for h in hunts:
        h.stop()


def test_killed_again_and_again_it_ends_with_the_same_numbers(hunt):
    seconds = undisturbed(hunt("whole"))
    assert len(json.loads((hunt.root / "whole/tiny/table_91/table.json").read_text())) == 2
    assert hunt_down(hunt("killed", seed=3), hunt.root / "whole", 3, seconds / 4) >= 1
    assert [line.split(":")[0] for line in hunt.said if line.startswith("kill")] == [
        "kill 1",
        "kill 2",
        "kill 3",
    ]
    assert "nothing left over" in hunt.said[-1]


def test_two_commands_on_one_folder_train_each_run_once(hunt):
    one, two = hunt("both"), hunt("both")
    for h in (one, two):
        h.start()
    begun = set()  # the folder of a run in the making, and which one it was
    while any([h.wait(0.02) for h in (one, two)]):
        begun |= set(making(hunt.root / "both"))
    assert [h.end() for h in (one, two)] == [0, 0]
    table = json.loads((hunt.root / "both/tiny/table_91/table.json").read_text())
    assert len(table) == 2 and None not in table.values()
    rows = [
        json.loads(line)["epoch"]
        for p in (hunt.root / "both/runs").glob("[!.]*/metrics.jsonl")
        for line in p.read_text().splitlines()
    ]
    assert sorted(rows) == sorted([*range(1, 7)] * 2)
    assert all(
        json.loads(p.read_text())["resumed"] == 0
        for p in (hunt.root / "both/runs").glob("[!.]*/result.json")
    )
    assert sorted(id for id, _ in begun) == sorted(table)
    assert names(hunt.root / "both") == {
        "runs",
        "runs/.partial",
        "tiny",
        "tiny/table_91",
        *(f"tiny/table_91/{n}" for n in ("stamp.json", "table.json", "table_91.ipynb")),
        *(
            f"runs/{id}{n}"
            for id in table
            for n in (
                "",
                "/spec.json",
                "/metrics.jsonl",
                "/scores.npz",
                "/model.safetensors",
                "/result.json",
            )
        ),
    }


def test_what_differs_is_seen(tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name / "smoke/table_02").mkdir(parents=True)
        (tmp_path / name / "smoke/table_02/table.json").write_text(
            json.dumps(
                {
                    "cells": [
                        {"column": "Accuracy(%)", "values": value},
                        {"column": "Seconds an epoch", "values": value},
                    ],
                    "provenance": name,
                }
            )
        )
    (tmp_path / "a/smoke/table_02/table.json.0123abcd.tmp").touch()
    assert differences(tmp_path / "a", tmp_path / "b") == [
        "table smoke/table_02/table.json has another cells.0.values.value: 1.0, not 2.0",
        "left over: smoke/table_02/table.json.0123abcd.tmp",
    ]
    assert plain({"column": "Seconds an epoch", "row": "x", "values": 3}) == {
        "column": "Seconds an epoch",
        "row": "x",
    }
