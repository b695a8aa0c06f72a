"Two results folders compared: what changed is named, once, and nothing else is."

import json
import os
import re
import shutil
from dataclasses import replace

import pytest

from mdr_repro.measuring.statistics import mean_interval
from mdr_repro.report.difference import SECTIONS, difference, explained
from mdr_repro.training.run_spec import RunSpec, Schedule
from mdr_repro.use.command_line import main

BASE = RunSpec("clips.npz", "ef" * 32, Schedule(12))
ROWS = {"softmax": (50.0, 52.0, 54.0), "a_in": (55.0, 57.0, 59.0), "a_out": (56.0, 58.0, 63.0)}


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def cell(row, column, values, runs):
    i = mean_interval(values) if values else None
    return {
        "row": row,
        "column": column,
        "slot": "fsd10",
        "printed": "91.06",
        "paper": 91.06,
        "values": {str(k): v for k, v in enumerate(values)},
        "difference": None,
        "measured": i and {"mean": i.mean, "low": i.low, "high": i.high, "n": i.n},
        "runs": list(runs),
        "note": "",
    }


def results(
    folder, rows=ROWS, change=lambda spec: spec, verdict="undecided", claim=True, **provenance
):
    "A results folder with one table, a run a seed, and a figure."
    cells = []
    for row, values in rows.items():
        specs = [
            change(
                replace(
                    BASE,
                    seed=k,
                    objective="softmax" if row == "softmax" else "rdl",
                    objective_options=(
                        {} if row == "softmax" else {"weights": [1, row == "a_in", None]}
                    ),
                )
            )
            for k in range(len(values))
        ]
        for spec, value in zip(specs, values):
            put(folder / "records" / spec.id / "spec.json", json.loads(spec.canonical()))
            put(
                folder / "records" / spec.id / "result.json",
                {
                    "id": spec.id,
                    "label": spec.label,
                    "top1": value / 100,
                    "seconds": 60.0,
                    "device": "a processor",
                    "torch": "2",
                    "git": "ab" * 20,
                    "per_class": [value / 100, 1.0],
                    "files": {"model.safetensors": "12" * 32, "metrics.jsonl": "34" * 32},
                },
            )
        cells.append(cell(row, "Accuracy(%)", values, [s.id for s in specs]))
    origin = {
        "revision": "ab" * 20,
        "dirty": False,
        "lock_sha256": "cd" * 32,
        "torch": "2",
        "python": "3",
        "device": "a processor",
        "made_with": [{"code": "ab" * 20, "torch": "2"}],
        "data": {"clips.npz": "ef" * 32},
        "runs": [],
        "timing": {"date_utc": "2026-01-01T00:00:00+00:00", "run_seconds": 60.0},
        **provenance,
    }
    row = {
        "id": "V.a_in-softmax",
        "text": "angular terms help",
        "better": [["a_in", "Accuracy(%)"]],
        "worse": [["softmax", "Accuracy(%)"]],
        "kind": "better",
        "margin": None,
        "effect": {"mean": 5.0, "low": 1.0, "high": 9.0, "n": 3},
        "p": 0.2,
        "verdict": verdict,
    }
    put(
        folder / "table_05" / "table.json",
        {
            "id": "table_05",
            "title": "Table V",
            "profile": "smoke",
            "cells": cells,
            "claims": [row] * claim,
            "provenance": origin,
        },
    )
    put(
        folder / "figure_05" / "figure.json",
        {"figure_05": {"data": {"x": [1.0, 2.0], "seconds": 3.0}, "provenance": origin}},
    )
    put(
        folder / "claims.json",
        {
            "profile": "smoke",
            "claims": [],
            "sentences": [
                {
                    "section": "IV.C",
                    "text": "angular terms help",
                    "claims": [],
                    "verdict": verdict,
                    "reason": "",
                }
            ],
        },
    )
    return folder


def changed(d):
    "The sections that have rows."
    return {name for name, rows in d.rows.items() if rows}


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def everything(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def pair(tmp_path):
    return results(tmp_path / "a"), results(tmp_path / "b")


def test_equal_folders(pair, capsys):
    before = [everything(folder) for folder in pair]
    assert main(["diff", *map(str, pair)]) == 0
    page = capsys.readouterr().out
    assert "The folders are equal." in page and "##" not in page
    d = difference(*pair)
    assert d.equal and changed(d) == set() and all(d.frame(name).empty for name in SECTIONS)
    assert [everything(folder) for folder in pair] == before


def test_a_run_that_is_trained_twice_is_the_same(tmp_path, monkeypatch, capsys):
    (tmp_path / "settings.ini").touch()
    monkeypatch.chdir(tmp_path)
    tiny = [
        "train",
        "--data",
        "synthetic:num_clips=40,num_classes=2,seed=5",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--frames",
        "8",
        "--width",
        "0.0625",
        "--warmup-epochs",
        "0",
    ]
    for name in "ab":
        assert (
            main([*tiny, "--results-root", f"runs_of_{name}", "--save-record", f"{name}/records"])
            == 0
        )
    one, other = (
        next((tmp_path / name / "records").glob("*/result.json")).read_text() for name in "ab"
    )
    assert one != other  # seconds
    assert difference("a", "b").equal


def test_dates_and_seconds_are_no_difference(pair):
    edit(
        pair[1] / "table_05/table.json",
        lambda t: t["provenance"]["timing"].update(
            date_utc="2027-01-01T00:00:00+00:00", run_seconds=1.0
        ),
    )
    for path in (pair[1] / "records").glob("*/result.json"):
        edit(
            path, lambda r: (r.update(seconds=1.0), r["files"].update({"metrics.jsonl": "0" * 64}))
        )
    edit(pair[1] / "figure_05/figure.json", lambda f: f["figure_05"]["data"].update(seconds=9.0))
    assert difference(*pair).equal


def test_times_are_shown_and_do_not_count(pair):
    for folder, seconds in zip(pair, (1.0, 2.0)):
        edit(
            folder / "table_05/table.json",
            lambda t: t["cells"].append(cell("a_in", "Seconds an epoch", [seconds, seconds], [])),
        )
    d = difference(*pair)
    assert d.equal and changed(d) == {"times"} and d.frame("times").loc[0, "difference"] == 1.0
    assert "The folders are equal." in d.to_markdown() and "Seconds an epoch" in d.to_markdown()


def test_one_number_changed(pair):
    edit(
        pair[1] / "table_05/table.json",
        lambda t: t["cells"].__setitem__(
            1, cell("a_in", "Accuracy(%)", [75.0, 77.0, 79.0], t["cells"][1]["runs"])
        ),
    )
    d = difference(*pair)
    assert changed(d) == {"numbers"}
    [row] = d.rows["numbers"]
    assert (
        row["experiment"],
        row["row"],
        row["column"],
        row["a"],
        row["b"],
        row["n_a"],
        row["n_b"],
        row["difference"],
        row["judgement"],
    ) == ("table_05", "a_in", "Accuracy(%)", 57.0, 77.0, 3, 3, 20.0, "outside")
    assert row["explained"] == explained([55.0, 57.0, 59.0], [75.0, 77.0, 79.0]) < 20
    assert (
        "| Table V | a_in | Accuracy(%) | 57.00 (n=3) | 77.00 (n=3) | +20.00     | ± 4.53    |"
        " outside   |" in d.to_markdown()
    )
    assert (
        "1 of 3 cells changed; of 1 that have the seeds to tell, 1 by more than their spread"
        " explains (by chance alone about 0.1 would)" in d.to_markdown()
    )


@pytest.mark.parametrize(
    "values, n, judgement",
    [
        ([56.0, 58.0, 60.0], 3, "within"),
        ([57.0, 55.0, 59.0], 3, "within"),
        ([90.0], 1, "outside"),
        ([58.0], 1, "within"),
        ([], 0, "only in A"),
    ],
)
def test_what_the_seeds_tell(pair, values, n, judgement):
    edit(
        pair[1] / "table_05/table.json",
        lambda t: t["cells"].__setitem__(
            1, cell("a_in", "Accuracy(%)", values, t["cells"][1]["runs"][:n])
        ),
    )
    [row] = difference(*pair).rows["numbers"]
    assert (row["n_b"], row["judgement"]) == (n, judgement)


def test_one_seed_on_each_side_tells_nothing_of_chance(tmp_path):
    d = difference(
        results(tmp_path / "a", {"a_in": (50.0,)}), results(tmp_path / "b", {"a_in": (90.0,)})
    )
    [row] = d.rows["numbers"]
    assert (row["explained"], row["judgement"]) == (None, "one seed each")
    assert "none with the seeds that tell a change from chance" in d.to_markdown()


def test_a_small_change_is_not_rounded_away(pair):
    for folder, value in zip(pair, (2.990676, 2.990677)):
        edit(
            folder / "table_05/table.json",
            lambda t: t["cells"].append(cell("a_in", "Params (M)", [value], [])),
        )
    [row] = difference(*pair).rows["numbers"]
    assert row["judgement"] == "no seeds" and re.search(
        r"2.9906760* \(n=1\) \| 2.9906770* \(n=1\)", difference(*pair).to_markdown()
    )


def test_one_field_changed_in_all_runs_is_one_line(tmp_path):
    a, b = (
        results(tmp_path / "a"),
        results(
            tmp_path / "b", change=lambda s: replace(s, schedule=replace(s.schedule, epochs=60))
        ),
    )
    d = difference(a, b)
    assert not {p.name for p in (a / "records").iterdir()} & {
        p.name for p in (b / "records").iterdir()
    }
    assert changed(d) == {"settings"}
    assert d.rows["settings"] == [
        {
            "setting": "schedule: epochs",
            "a": 12,
            "b": 60,
            "runs": 9,
            "where": "Table V, all 3 cells",
        }
    ]
    assert difference(b, a).rows["settings"] == [
        {
            "setting": "schedule: epochs",
            "a": 60,
            "b": 12,
            "runs": 9,
            "where": "Table V, all 3 cells",
        }
    ]


def test_settings_of_another_revision(tmp_path):
    """Fields that one side does not know are compared as they are written; the default of an added
    field is known."""
    a, b = (
        results(tmp_path / "a"),
        results(
            tmp_path / "b",
            change=lambda s: replace(
                s, schedule=replace(s.schedule, last_batch="drop"), backbone_options={"width": 0.25}
            ),
        ),
    )
    for path in (a / "records").glob("*/spec.json"):
        edit(path, lambda s: s.update(of_old="yes", noise_unit="of old"))
    found = {r["setting"]: (r["a"], r["b"], r["runs"]) for r in difference(a, b).rows["settings"]}
    assert found == {
        "schedule: last_batch": ("keep", "drop", 9),
        "option of the backbone: width": ("not given", 0.25, 9),
        "of old": ("yes", "not given", 9),
        "noise unit": ("of old", "joint", 9),
    }


def test_more_seeds_are_no_other_setting(tmp_path):
    d = difference(
        results(tmp_path / "a", {"a_in": (50.0, 52.0)}),
        results(tmp_path / "b", {"a_in": (50.0, 52.0, 54.0)}),
    )
    assert changed(d) == {"numbers", "missing"}
    [row] = d.rows["missing"]
    assert (row["what"], row["side"], len(row["names"])) == ("runs", "B", 1) and row["names"][
        0
    ].endswith("mdr_gcn rdl seed 2")


def test_fused_streams_correspond_stream_by_stream(tmp_path):
    for name, width in (("a", 1.0), ("b", 0.5)):
        runs = [
            replace(
                BASE, seed=k, modality=m, backbone_options={"width": width} if m == "bone" else {}
            )
            for k in range(2)
            for m in ("joint", "bone")
        ]
        for s in runs:
            put(tmp_path / name / "records" / s.id / "spec.json", json.loads(s.canonical()))
        put(
            tmp_path / name / "table_05" / "table.json",
            {
                "cells": [cell("MDR-GCN", "Fused(%)", [50.0, 51.0], [s.id for s in runs])],
                "claims": [],
                "provenance": {},
            },
        )
    assert difference(tmp_path / "a", tmp_path / "b").rows["settings"] == [
        {
            "setting": "option of the backbone: width",
            "a": 1,
            "b": 0.5,
            "runs": 2,
            "where": "Table V, its only cell",
        }
    ]


def test_runs_without_a_record_are_said_to_be_unknown(tmp_path):
    a, b = (
        results(tmp_path / "a"),
        results(
            tmp_path / "b", change=lambda s: replace(s, schedule=replace(s.schedule, epochs=60))
        ),
    )
    shutil.rmtree(b / "records")
    [row] = difference(a, b).rows["settings"]
    assert (row["setting"], row["a"], row["b"], row["runs"]) == (
        "all",
        "known",
        "unknown: the run has no record",
        9,
    )


def test_a_verdict_turned(tmp_path):
    d = difference(results(tmp_path / "a"), results(tmp_path / "b", verdict="holds"))
    assert changed(d) == {"verdicts"}
    claim, sentence = d.rows["verdicts"]
    assert (claim["claim"], claim["statement"], claim["a"], claim["b"]) == (
        "V.a_in-softmax",
        "a_in over softmax",
        "undecided",
        "holds",
    )
    assert (sentence["claim"], sentence["a"], sentence["b"]) == (
        "sentence of IV.C",
        "undecided",
        "holds",
    )
    assert "Verdicts: 2 from undecided to holds." in d.to_markdown()


def test_another_test_of_the_same_numbers(pair):
    edit(pair[1] / "table_05/table.json", lambda t: t["claims"][0].update(p=0.04))
    d = difference(*pair)
    assert changed(d) == {"verdicts"} and "1 with another p" in d.to_markdown()


def test_a_cell_a_claim_a_picture_and_an_experiment_missing(pair):
    edit(pair[1] / "table_05/table.json", lambda t: (t["cells"].pop(2), t["claims"].clear()))
    put(
        pair[0] / "table_01/table.json",
        {"cells": [cell("x", "y", [1.0], [])], "claims": [], "provenance": {}},
    )
    edit(pair[1] / "figure_05/figure.json", lambda f: f.update(more=f["figure_05"]))
    (pair[1] / "table_05/table_05.failed.ipynb").touch()
    d = difference(*pair)
    assert changed(d) == {"missing"}
    assert [(r["what"], r["experiment"], r["side"], r["names"]) for r in d.rows["missing"]] == [
        ("experiments", "", "A", ["Table I"]),
        ("pictures", "figure_05", "B", ["more"]),
        ("cells", "table_05", "A", ["a_out, Accuracy(%)"]),
        ("claims", "table_05", "A", ["V.a_in-softmax"]),
        ("failed notebooks", "", "B", ["Table V"]),
    ]


@pytest.mark.parametrize(
    "name", ["claims.json", "table_05/table.json", "figure_05/figure.json", "records"]
)
def test_what_one_side_lacks_is_no_error(pair, name):
    path = pair[1] / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for d, side in ((difference(*pair), "A"), (difference(*pair[::-1]), "B")):
        assert not d.equal and any(r["side"] == side for r in d.rows["missing"])
        assert name == "table_05/table.json" or changed(d) == {"missing"}


@pytest.mark.parametrize(
    "name",
    ["claims.json", "table_05/table.json", "figure_05/figure.json", "spec.json", "result.json"],
)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"cells": 3, "sentences": 3, "figure_05": 3}',
        "[" * 100_000,
        '{"id": NaN}',
        '{"id": "a", "values": 1e999}',
        "\udcff\udcfe",
    ],
)
def test_a_damaged_file_is_one_sentence(pair, capsys, name, text):
    path = (
        pair[1] / name
        if "/" in name or name == "claims.json"
        else next((pair[1] / "records").glob(f"*/{name}"))
    )
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["diff", *map(str, pair)]) == 2
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.count("\n") == 1
        and "1 damaged file: b/" in err
        and path.name in err
        and "delete what is damaged" in err
    )


def test_all_damaged_files_are_named_at_once(pair):
    for name in ("claims.json", "table_05/table.json"):
        (pair[0] / name).write_text("{")
    with pytest.raises(ValueError, match="2 damaged files: a/table_05/table.json, a/claims.json"):
        difference(*pair)


def test_a_changed_record_is_named(pair):
    path = sorted((pair[1] / "records").iterdir())[4] / "result.json"
    edit(
        path,
        lambda r: (
            r.update(top1=0.9, device="another"),
            r["files"].update({"model.safetensors": "0" * 64}),
            r["per_class"].__setitem__(1, 0.5),
        ),
    )
    d, run = difference(*pair), path.parent.name
    assert changed(d) == {"records", "provenance"}
    assert {(r["what"], r["b"], *r["places"]) for r in d.rows["records"]} == {
        ("top1", 0.9, run),
        ("per_class", "1 0.5", run),
        ("checksum of model.safetensors", "another", run),
    }
    assert d.rows["provenance"] == [
        {"what": "device of runs", "a": "a processor", "b": "another", "places": [run]}
    ]


def test_provenance_can_be_left_out(tmp_path, capsys):
    a, b = (
        results(tmp_path / "a"),
        results(
            tmp_path / "b",
            revision="00" * 20,
            torch="3",
            made_with=[{"code": "00" * 20, "torch": "3"}],
        ),
    )
    assert main(["diff", str(a), str(b)]) == 1
    page = capsys.readouterr().out
    assert (
        "- Provenance: revision, torch, runs made with." in page
        and "ab" * 20 not in page
        and "abababababab" in page
    )
    assert main(["diff", str(a), str(b), "--ignore", "provenance"]) == 0
    assert "Left out: Provenance." in capsys.readouterr().out
    assert main(["diff", str(a), str(b), "--ignore", "places"]) == 2
    assert "unknown section 'places'; known: settings" in capsys.readouterr().err


def test_names_do_not_become_markup(tmp_path):
    name = "a|b <script>alert(1)</script>\n## no heading \x1b[31m"
    d = difference(
        results(tmp_path / "a", {name: (50.0, 51.0)}), results(tmp_path / "b", {name: (60.0, 61.0)})
    )
    page = d.to_markdown()
    [line] = [line for line in page.splitlines() if "alert" in line]
    assert (
        r"a\|b &lt;script&gt;alert(1)&lt;/script&gt; ## no heading �[31m" in line
        and "<script>" not in page
        and "\x1b" not in page
    )
    heads = next(line for line in page.splitlines() if "Judgement" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == heads.count("|")
    assert d.plain()["numbers"][0]["row"] == name  # for machines as it is


@pytest.mark.parametrize(
    "section, change",
    [
        ("texts", lambda table, spec, text: table.update(title=text)),
        ("missing", lambda table, spec, text: table["cells"][0].update(row=text)),
        ("verdicts", lambda table, spec, text: table["claims"][0].update(verdict=text)),
        ("settings", lambda table, spec, text: spec.update({text: text})),
        ("provenance", lambda table, spec, text: table["provenance"].update({text: text})),
    ],
)
def test_no_section_lets_markup_through(pair, section, change):
    path = next((pair[1] / "records").glob("*/spec.json"))
    spec = json.loads(path.read_text())
    edit(pair[1] / "table_05/table.json", lambda table: change(table, spec, "<b>|</b>"))
    put(path, spec)
    d = difference(*pair)
    assert (
        d.rows[section]
        and "<b>" not in d.to_markdown()
        and r"&lt;b&gt;\|&lt;/b&gt;" in d.to_markdown()
    )


def test_files_for_machines_and_readers(pair, tmp_path, capsys):
    edit(pair[1] / "table_05/table.json", lambda t: t.update(title="another"))
    assert (
        main(
            [
                "diff",
                *map(str, pair),
                "--json",
                str(tmp_path / "d.json"),
                "--md",
                str(tmp_path / "d.md"),
            ]
        )
        == 1
    )
    found = json.loads((tmp_path / "d.json").read_text())
    assert (
        found["equal"] is False
        and found["a"]["profile"] == "smoke"
        and found["texts"][0]["b"] == "another"
        and set(SECTIONS) <= set(found)
    )
    assert (tmp_path / "d.md").read_text().strip() in capsys.readouterr().out
    before = everything(pair[0])
    for file, sentence in (
        (pair[0] / "d.json", "left as it is"),
        (tmp_path / "nowhere" / "d.json", "no such folder"),
    ):
        assert main(["diff", *map(str, pair), "--json", str(file)]) == 2
        assert sentence in capsys.readouterr().err
    assert everything(pair[0]) == before


def test_which_folders_are_meant(tmp_path, capsys, monkeypatch):
    for side in "ab":
        results(tmp_path / side / "smoke")
    results(tmp_path / "b" / "paper")
    monkeypatch.chdir(tmp_path)
    assert main(["diff", "a", "b", "--profile", "smoke"]) == 0
    assert main(["diff", "a/smoke", "b", "--profile", "smoke"]) == 0
    assert main(["diff", "a/smoke", "b/paper"]) == 0
    for arguments, sentence in [
        (["a", "b"], "a holds the profiles smoke: name one with --profile, or give a/smoke"),
        (["a", "b", "--profile", "paper"], "no results of profile 'paper' in it; it has smoke"),
        (["a/smoke", "c"], "there is no such folder"),
        (["a/smoke", "a/smoke/records"], "no results in it"),
    ]:
        capsys.readouterr()
        assert main(["diff", *arguments]) == 2
        assert sentence in capsys.readouterr().err


def test_a_folder_that_may_only_be_read(pair):
    for folder in pair:
        for path in (folder, *folder.rglob("*")):
            os.chmod(path, 0o555 if path.is_dir() else 0o444)
    try:
        assert difference(*pair).equal
    finally:
        for folder in pair:
            for path in (folder, *folder.rglob("*")):
                os.chmod(path, 0o755 if path.is_dir() else 0o644)


def test_the_committed_results_against_a_copy_with_one_changed_record(root, tmp_path):
    "Equal to themselves; a changed result is named, and so is a changed spec."
    committed = sorted({p.parents[2] for p in (root / "results").glob("*/records/*/spec.json")})
    if not committed:
        pytest.skip("no results with records are committed")
    ours, copy = committed[0], tmp_path / committed[0].name
    shutil.copytree(ours, copy)
    assert difference(ours, ours).equal and difference(ours, copy).equal
    run = sorted(p.name for p in (copy / "records").iterdir())[0]
    edit(copy / "records" / run / "result.json", lambda r: r.update(top1=r["top1"] / 2))
    d = difference(ours, copy)
    assert changed(d) == {"records"} and [(r["what"], r["places"]) for r in d.rows["records"]] == [
        ("top1", [run])
    ]
    edit(copy / "records" / run / "spec.json", lambda s: s["schedule"].update(epochs=999))
    d = difference(ours, copy)
    assert changed(d) == {"records", "settings"}
    assert [(r["setting"], r["a"], r["b"], r["runs"]) for r in d.rows["settings"]] == [
        (
            "schedule: epochs",
            json.loads((ours / "records" / run / "spec.json").read_text())["schedule"]["epochs"],
            999,
            1,
        )
    ]
