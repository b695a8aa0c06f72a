"The committed records of real runs are whole, and the README says what they say."
import hashlib
import json
import re
from pathlib import Path

import pytest

from mdr_repro.reproduction.experiments import SYSTEMS
from mdr_repro.training.spec import RunSpec
from mdr_repro.training.store import read_record

ROOT = Path(__file__).parent.parent
REPLICA = ROOT / "results" / "replica"
KEPT = sorted((REPLICA / "records").glob("*/result.json"))
TABLES = sorted(REPLICA.glob("*/table.json"))
RECORDS = sorted((ROOT / "results" / "replica" / "real_clips").glob("*/result.json"))
SHORT = ROOT / "results" / "replica" / "systems_short"
SHORT_RECORDS = sorted((SHORT / "records").glob("*/result.json"))


@pytest.mark.parametrize("path", RECORDS + SHORT_RECORDS + KEPT, ids=lambda p: p.parent.name)
def test_a_record_is_whole(path):
    result, spec = json.loads(path.read_text()), RunSpec.from_json((path.parent / "spec.json").read_text())
    assert path.parent.name == result["id"] == spec.id and result["precision"] == spec.precision
    for name in ("spec.json", "metrics.jsonl"):
        assert hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == result["files"][name]
    rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == list(range(1, spec.schedule.epochs + 1))
    assert result["reported"] == "last" and rows[-1]["test_top1"] == pytest.approx(result["top1"])
    assert result["clips"]["test"] * result["top1"] == pytest.approx(round(result["clips"]["test"] * result["top1"])), "a share of whole clips"


@pytest.mark.parametrize("folder", sorted(p.parent for p in (ROOT / "results").glob("*/records/*/record.json")), ids=lambda p: p.name)
def test_a_record_that_travels_gives_its_accuracies(folder):
    record = read_record(RunSpec.from_json((folder / "spec.json").read_text()), folder)
    assert not record.weights and [getattr(record.scores(), k) for k in ("top1", "mean_class", "top5")] == [record.result[k] for k in ("top1", "mean_class", "top5")]


def test_the_results_stay_small():
    assert sum(p.stat().st_size for p in (ROOT / "results").rglob("*") if p.is_file() and "runs" not in p.relative_to(ROOT).parts) < 60e6


def test_the_readme_says_what_the_records_say():
    assert RECORDS, "the README's real-clip table has no records behind it"
    table = re.search(r"<!-- RESULTS.*?-->\n(.*?)\n\n", (ROOT / "README.md").read_text(), re.S).group(1)
    lines = [line for line in table.splitlines() if re.search(r"`[0-9a-f]{12}`", line)]
    assert len(lines) == len(RECORDS)
    for path in RECORDS:
        result, spec = json.loads(path.read_text()), RunSpec.from_json((path.parent / "spec.json").read_text())
        line = next(line for line in lines if result["id"] in line)
        cells = [c.strip() for c in line.strip("|").split("|")]
        assert cells[1:] == [spec.data.removesuffix(".npz"), str(spec.backbone_options["widths"][0] / 64), str(spec.schedule.epochs), f"{100 * result['top1']:.2f} %", f"{100 * result['mean_class']:.2f} %",
                             f"{result['seconds'] / 60:.0f} min", f"{result['threads']} of {result['device']}"]


def test_the_short_table_says_what_its_records_say():
    table = json.loads((SHORT / "table.json").read_text())
    results = {p.parent.name: json.loads(p.read_text()) for p in SHORT_RECORDS}
    specs = {p.parent.name: RunSpec.from_json((p.parent / "spec.json").read_text()) for p in SHORT_RECORDS}
    assert {run for cell in table["cells"] for run in cell["runs"]} == set(results)
    for cell in table["cells"]:
        (run,), (value,) = cell["runs"], cell["values"].values()
        if cell["column"] == "Accuracy(%)": assert value == pytest.approx(100 * results[run]["top1"])
        if cell["column"] == "Mean class(%)": assert value == pytest.approx(100 * results[run]["mean_class"])
    assert {s.backbone for s in specs.values()} == set(SYSTEMS.values())
    assert len({(s.data, s.data_checksum, s.objective, s.schedule, s.sampling, s.seed) for s in specs.values()}) == 1, "one protocol for all"


def test_mdr_gcn_comes_last_in_the_short_table():  # as the README says
    cells = [c for c in json.loads((SHORT / "table.json").read_text())["cells"] if c["column"] == "Accuracy(%)"]
    assert min(cells, key=lambda c: c["measured"]["mean"])["row"] == "MDR-GCN"


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.parent.name)
def test_a_committed_table_says_what_its_records_say(path):
    table = json.loads(path.read_text())
    known = {p.parent.name: json.loads(p.read_text()) for p in KEPT + SHORT_RECORDS}
    assert set(table["provenance"]["runs"]) <= set(known)
    for cell in table["cells"]:
        if len(cell["runs"]) != len(cell["values"]): continue  # fused
        for run, value in zip(cell["runs"], cell["values"].values()):
            kind = "mean_class" if "ean class" in cell["column"] else "top1"
            if cell["column"].endswith("(%)") and not cell["column"].startswith(("Outliers", "Purity", "Right knee")): assert value == pytest.approx(100 * known[run][kind])


def test_the_committed_replica_has_every_table_and_figure():
    there = {p.parent.name for p in REPLICA.glob("*/*.ipynb")}
    assert {f"table_{n:02d}" for n in range(1, 12)} | {f"figure_{n:02d}" for n in range(1, 6)} | {"audit", "released_code", "noise_curve", "systems_short", "precision"} <= there
    assert (REPLICA / "index.html").is_file() and (REPLICA / "claims.md").is_file()


def test_the_readme_counts_the_replicas_runs():
    runs, others = set(), set()
    for path in [*REPLICA.glob("*/table.json"), *REPLICA.glob("*/figure.json")]:
        found = json.loads(path.read_text())
        for part in [found] if path.name == "table.json" else found.values():
            runs |= set(part["provenance"]["runs"])
            if path.parent.name != "precision": others |= set(part["provenance"]["runs"])
    known = {p.parent.name: json.loads(p.read_text()) for p in KEPT + SHORT_RECORDS}
    minutes = round(sum(known[run]["seconds"] for run in runs) / 60)
    assert f"{len(runs)} runs, {minutes // 60} h {minutes % 60:02} min of training" in (ROOT / "README.md").read_text()
    seeds = {p.parent.name: RunSpec.from_json((p.parent / "spec.json").read_text()).seed for p in KEPT if p.parent.name in runs}
    assert {seeds[run] for run in others & set(seeds)} == {0} and {seeds[run] for run in runs - others} | {0} == set(range(5)), "as the README says"


def test_the_readme_says_what_bfloat16_did():
    table = json.loads((REPLICA / "precision" / "table.json").read_text())
    accuracy = {cell["row"]: cell["measured"]["mean"] for cell in table["cells"] if cell["column"] == "Accuracy(%)"}
    text = (ROOT / "README.md").read_text()
    assert f"{accuracy['fp32']:.1f} % in float32, {accuracy['bf16']:.1f} % in bfloat16" in text


def test_the_readme_says_what_the_bench_measured():
    benches = [json.loads(p.read_text()) for p in sorted((ROOT / "results" / "bench").glob("*.json")) if p.name != "steps.json"]
    assert benches
    text = (ROOT / "README.md").read_text()
    for b in benches:
        train, fused = b["speedup"]["train"]["fast"], b["speedup"]["test"]["fused"]
        assert f"{b['device']}, {b['threads']} threads: training {train:.2f} times, testing {fused:.2f} times as fast" in text
