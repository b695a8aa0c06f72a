"The committed records of real runs are whole, and docs/results.md says what they say."

import hashlib
import json
import re
from pathlib import Path

import pytest

from mdr_repro.study.profiles import PROFILES
from mdr_repro.study.protocol import chosen_budget
from mdr_repro.training.run_spec import RunSpec
from mdr_repro.training.run_store import read_record

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
KEPT = sorted(
    path for name in PROFILES for path in (RESULTS / name / "records").glob("*/result.json")
)
TABLES = sorted(
    path
    for name in ("replica", "validation", "paper")
    for path in (RESULTS / name).glob("*/table.json")
)
RECORDS = sorted((RESULTS / "replica" / "real_clips").glob("*/result.json"))


@pytest.mark.parametrize("path", RECORDS + KEPT, ids=lambda p: p.parent.name)
def test_a_record_is_whole(path):
    result, spec = (
        json.loads(path.read_text()),
        RunSpec.from_json((path.parent / "spec.json").read_text()),
    )
    assert path.parent.name == result["id"] == spec.id and result["precision"] == spec.precision
    for name in ("spec.json", "metrics.jsonl"):
        assert (
            hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == result["files"][name]
        )
    rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == list(range(1, spec.schedule.epochs + 1))
    assert result["reported"] == "last" and rows[-1][f"{spec.scored}_top1"] == pytest.approx(
        result["top1"]
    )
    assert result["clips"][spec.scored] * result["top1"] == pytest.approx(
        round(result["clips"][spec.scored] * result["top1"])
    ), "a share of whole clips"


@pytest.mark.parametrize(
    "folder",
    sorted(p.parent for p in (ROOT / "results").glob("*/records/*/record.json")),
    ids=lambda p: p.name,
)
def test_a_record_that_travels_gives_its_accuracies(folder):
    record = read_record(RunSpec.from_json((folder / "spec.json").read_text()), folder)
    assert not record.weights and [
        getattr(record.scores(), k) for k in ("top1", "mean_class", "top5")
    ] == [record.result[k] for k in ("top1", "mean_class", "top5")]


def test_the_results_stay_small():
    assert (
        sum(
            p.stat().st_size
            for p in (ROOT / "results").rglob("*")
            if p.is_file() and "runs" not in p.relative_to(ROOT).parts
        )
        < 60e6
    )


def test_the_readme_says_what_the_records_say():
    assert RECORDS, "the real-clip table has no records behind it"
    table = re.search(
        r"<!-- RESULTS.*?-->\n(.*?)\n\n", (ROOT / "docs/results.md").read_text(), re.S
    ).group(1)
    lines = [line for line in table.splitlines() if re.search(r"`[0-9a-f]{12}`", line)]
    assert len(lines) == len(RECORDS)
    for path in RECORDS:
        result, spec = (
            json.loads(path.read_text()),
            RunSpec.from_json((path.parent / "spec.json").read_text()),
        )
        line = next(line for line in lines if result["id"] in line)
        cells = [c.strip() for c in line.strip("|").split("|")]
        assert cells[1:] == [
            spec.data.removesuffix(".npz"),
            str(spec.backbone_options["widths"][0] / 64),
            str(spec.schedule.epochs),
            f"{100 * result['top1']:.2f} %",
            f"{100 * result['mean_class']:.2f} %",
            f"{result['seconds'] / 60:.0f} min",
            f"{result['threads']} of {result['device']}",
        ]


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.parent.name)
def test_a_committed_table_says_what_its_records_say(path):
    table = json.loads(path.read_text())
    known = {p.parent.name: json.loads(p.read_text()) for p in KEPT}
    assert set(table["provenance"]["runs"]) <= set(known)
    for cell in table["cells"]:
        if len(cell["runs"]) != len(cell["values"]):
            continue  # fused
        for run, value in zip(cell["runs"], cell["values"].values()):
            kind = "mean_class" if "ean class" in cell["column"] else "top1"
            if cell["column"].endswith("(%)") and not cell["column"].startswith(
                ("Outliers", "Purity", "Right knee")
            ):
                assert value == pytest.approx(100 * known[run][kind])


def test_the_readme_says_what_the_budget_runs_reached():
    table = re.search(
        r"<!-- BUDGET.*?-->\n(.*?)\n\n", (ROOT / "docs/results.md").read_text(), re.S
    ).group(1)
    lines = [line for line in table.splitlines() if re.search(r"`[0-9a-f]{12}`", line)]
    known = {p.parent.name: p.parent for p in KEPT}
    specs = {
        id: RunSpec.from_json((folder / "spec.json").read_text()) for id, folder in known.items()
    }
    assert len(lines) == sum(s.scored == "val" for s in specs.values()) > 0
    for line in lines:
        run, clips, objective, epochs, reached, minutes = (
            c.strip(" `") for c in line.strip("|").split("|")
        )
        result, spec = json.loads((known[run] / "result.json").read_text()), specs[run]
        assert (clips, objective, int(epochs)) == (
            spec.data.split(".")[0],
            spec.objective,
            spec.schedule.epochs,
        )
        assert (
            reached == f"{100 * result['top1']:.2f} % of {result['clips']['val']}"
            and minutes == f"{result['seconds'] / 60:.0f} min"
        )


def test_budgets_are_those_that_the_rule_chose():  # as far as the committed runs settle it
    path = RESULTS / "replica" / "budget" / "table.json"
    if not path.is_file():
        pytest.skip("no budget runs are committed")
    curves = {}
    for cell in json.loads(path.read_text())["cells"]:
        clips, _, objective = cell["row"].rpartition(", ")
        for value in cell["values"].values():
            curves.setdefault(clips, {}).setdefault(objective, {})[
                int(cell["column"].split()[0])
            ] = value
    for clips, found in curves.items():
        chosen = chosen_budget(found) if len(found) == 2 else None
        if chosen is None:
            continue
        slot = next(s for s in PROFILES["replica"].slots.values() if s.clips == clips and s.budgets)
        assert slot.schedule.epochs == chosen, clips


def test_the_page_says_what_the_bench_measured():
    benches = [
        json.loads(p.read_text())
        for p in sorted((ROOT / "results" / "bench").glob("*.json"))
        if p.name != "steps.json"
    ]
    assert benches
    text = (ROOT / "docs/howto/faster.md").read_text()
    for b in benches:
        train, fused = b["speedup"]["train"]["fast"], b["speedup"]["test"]["fused"]
        assert (
            f"{b['device']}, {b['threads']} threads: training {train:.2f} times, testing"
            f" {fused:.2f} times as fast" in text
        )
