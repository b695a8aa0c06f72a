"""Malformed inputs of every form (tests/malformed.py): one sentence each that names file, clip or
field and a mend; no code, no hang, no memory, nothing left behind."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import malformed
import pytest
from malformed import CASES, GIB, HARMLESS

import mdr_repro.readers  # noqa: F401  each reader enters `readers`
from mdr_repro.clips.clip_set import readers
from mdr_repro.study.runner import RunnerError, papermill_command, preflight

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="children are measured as Linux does"
)
MEND = r"; |known: |write |give "  # where a sentence goes on to what is to be done


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    "What became of every input: name -> outcome, from one process."
    run = subprocess.run(
        [sys.executable, "-W", "ignore", malformed.__file__, tmp_path_factory.mktemp("malformed")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    return {o["name"]: o for o in map(json.loads, run.stdout.splitlines())}


def test_the_corpus_covers_every_form():
    forms = Counter(case.form for case in CASES.values())
    assert len(CASES) >= 300 and min(forms.values()) >= 15, forms
    assert len({case.form for case in CASES.values() if case.opens == "clips"}) == len(readers)


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_input_gets_its_sentence(name, outcomes):
    case, o = CASES[name], outcomes[name]
    assert not o["killed"], (
        "it did not end" if o["killed"] == 14 else f"ended by signal {o['killed']}"
    )
    assert o["left"] == [], "it wrote something"
    assert o["error"] == case.error, o["sentence"]
    sentence = o["sentence"]
    assert "\n" not in sentence and "Traceback" not in sentence
    if case.opens == "clips":
        assert sentence.startswith(o["path"] + ": "), sentence
    for part in case.says:
        assert (
            part in sentence.removeprefix(o["path"]) or case.opens != "clips" and part in sentence
        ), sentence
    assert re.search(MEND, sentence), f"no mend: {sentence}"
    assert o["growth"] < GIB, f"{o['growth'] >> 20} MiB"


@pytest.mark.parametrize("name", HARMLESS)
def test_an_odd_input_is_read_as_its_plain_sister(name, outcomes):
    odd, plain = outcomes[f"{name} (odd)"], outcomes[f"{name} (plain)"]
    assert (odd["error"], plain["error"]) == ("", ""), odd["sentence"] + plain["sentence"]
    assert odd["sentence"] == plain["sentence"] and not odd["left"]


def test_the_traps_are_real(tmp_path):
    "Each would leave its mark if its pickle were loaded as Python does."
    code = """if True:
        import os, pickle, sys
        sys.path.insert(0, sys.argv[1])
        import malformed
        for name, trap in malformed.TRAPS.items():
            os.mkdir(name); os.chdir(name)
            try: pickle.loads(pickle.dumps(trap(), 2))
            finally: os.chdir("..")"""
    subprocess.run(
        [sys.executable, "-c", code, Path(malformed.__file__).parent],
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    # which only fetches os.system
    assert {p.parent.name for p in tmp_path.rglob("canary")} == set(malformed.TRAPS) - {"getattr"}


# ---- a notebook's parameters

SHELL = (
    "$(touch canary) `touch canary`; touch canary & touch canary | touch canary > canary"
    """ \\ " ' {{ }} %s !canary #x ~ * ? \t é 😀"""
)


def test_parameters_never_reach_a_shell(project):
    """A value with every sign that a shell reads arrives in the notebook as it was given, and
    nothing else happens."""
    notebook = project(
        "table_05", 'Path("seen.json").write_text(json.dumps([data_root, results_root]))'
    )
    given = {"data_root": SHELL}
    assert preflight(notebook, given)["data_root"] == SHELL
    command = papermill_command(notebook, project.root / "out.ipynb", given)
    assert isinstance(command, list) and command[:3] == [sys.executable, "-m", "papermill"]
    run = subprocess.run(command, cwd=project.root, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads((project.root / "seen.json").read_text())[0] == SHELL
    assert not list(project.root.rglob("canary"))


@pytest.mark.parametrize(
    "cell, sentence",
    [
        ('profile = __import__("os").system("touch canary")  # code', "is not of the form"),
        ("seeds = [0 for _ in open('canary', 'w')]  # code", "is not of the form"),
        ("seeds = 0", "is not of the form"),
        ("a = b = 0  # two", "is not of the form"),
        ("seeds = " + "(" * 500 + ")" * 500 + "  # deep", "is not of the form"),
        ("seeds = 0  # once\nseeds = 1  # twice", "seeds is there twice"),
        ("seeds = -" + "9" * 5000 + "  # long", "is not of the form"),
    ],
)
def test_a_parameters_cell_holds_only_values(cell, sentence, project):
    with pytest.raises(RunnerError, match=sentence) as caught:
        preflight(project("table_05", parameters=cell))
    assert "\n" not in str(caught.value) and not list(project.root.rglob("canary"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"cells": 3}',
        b'{"cells": [{"cell_type": "code"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        "{}".encode("utf-16"),
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_notebook(text, project):
    path = project("table_05")
    path.write_bytes(text)
    with pytest.raises(
        RunnerError, match="table_05.ipynb is not a valid notebook .* restore it from git"
    ) as caught:
        preflight(path)
    assert "\n" not in str(caught.value)


def test_values_of_another_kind_are_refused(project):
    path = project("table_05")
    for given in (
        {"seeds": "0; import os"},
        {"device": ["cuda"]},
        {"profile": {"a": 1}},
        {"seeds": True},
        {"__import__": "os"},
    ):
        with pytest.raises(RunnerError, match="does not fit|has no parameter"):
            preflight(path, given)
