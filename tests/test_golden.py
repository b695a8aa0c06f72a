"What no rearrangement of the code may change: run ids, names of weights, committed numbers."

import hashlib
import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mdr_repro.models import backbones, build_backbone
from mdr_repro.models.published_weights import SYSTEMS, system_table
from mdr_repro.skeleton import get_skeleton
from mdr_repro.study.cells import EXPERIMENTS, cell_specs, experiment_cells
from mdr_repro.study.profiles import PROFILES
from mdr_repro.training.run_spec import RunSpec
from mdr_repro.training.run_store import read_record

ROOT = Path(__file__).parent.parent
GOLDEN = json.loads((ROOT / "tests" / "golden.json").read_text())


def digest(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def planned_ids(profile) -> dict[str, str]:
    "Experiment -> digest of the ids of all its runs with seeds 0 and 1, and the first id in full."
    found = {}
    for id in EXPERIMENTS:
        if profile.experiments and id not in profile.experiments:
            continue
        cells = experiment_cells(id, profile)
        ids = []
        for cell in cells:
            for seed in (0, 1):
                nameless = replace(cell, changes={**cell.changes, "data_checksum": "0" * 64})
                ids += [spec.id for spec in cell_specs(nameless, profile, seed)]
        if ids:
            found[id] = f"{ids[0]} {digest(sorted(set(ids)))}"
    return found


def weight_names(name: str, **options) -> str:
    "Digest of names and shapes of a network's state dict."
    net = build_backbone(name, get_skeleton("ntu25"), 3, 2, **options)
    return digest(f"{key} {tuple(value.shape)}" for key, value in net.state_dict().items())


def published_names(system: str) -> str:
    "Digest of the patterns that lead published names of weights to ours."
    return digest(f"{old} {new}" for old, new in system_table(system))


def committed() -> dict[str, str]:
    "Committed record -> its spec's id and accuracy."
    folders = sorted(path.parent for path in (ROOT / "results").glob("*/records/*/record.json"))
    records = [read_record(RunSpec.from_json((f / "spec.json").read_text()), f) for f in folders]
    return {r.folder.name: f"{r.spec.id} {r.result['top1']:.6f}" for r in records}


def all_weight_names() -> dict[str, str]:
    "Network -> digest of its names of weights."
    forms = {
        "mdr_gcn, released": ("mdr_gcn", {"form": "released"}),
        "st_gcn, cvsta": ("st_gcn", {"cvsta": True}),
    }
    nets = {name: (name, {}) for name in backbones} | forms
    return {label: weight_names(name, **options) for label, (name, options) in nets.items()}


def measured() -> dict:
    "What golden.json holds, of the code as it is."
    runs = {name: planned_ids(profile) for name, profile in PROFILES.items()}
    published = {system: published_names(system) for system in SYSTEMS}
    return {
        "runs": runs,
        "weights": all_weight_names(),
        "published": published,
        "records": committed(),
    }


@pytest.mark.parametrize("profile", GOLDEN["runs"])
def test_run_ids_stay(profile):
    assert planned_ids(PROFILES[profile]) == GOLDEN["runs"][profile]


def test_names_of_weights_stay():
    now = all_weight_names()
    assert GOLDEN["weights"].items() <= now.items()  # other tests register networks of their own


def test_tables_of_published_weights_stay():
    assert {system: published_names(system) for system in SYSTEMS} == GOLDEN["published"]


def test_committed_records_stay():
    now = committed()
    assert GOLDEN["records"].items() <= now.items()  # more may come
    assert all(name == said.split()[0] for name, said in now.items())


@pytest.mark.parametrize(
    "module, name",
    [
        ("mdr_repro.mdrgcn", "MDRGCN"),
        ("mdr_repro.rdl", "RobustDecoupleLoss"),
        ("mdr_repro.recognizer", "Recognizer"),
        ("mdr_repro.skeleton", "get_skeleton"),
        ("mdr_repro.cvsta", "CVSTA"),
    ],
)
def test_public_imports_stay(module, name):
    assert callable(getattr(importlib.import_module(module), name))
