"The paper's numbers, the profiles and the measured tables."

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from mdr_repro.clips.clip_set import DataError
from mdr_repro.clips.sampling import Sampling
from mdr_repro.measuring.paired_clips import seeds_and_clips, two_networks
from mdr_repro.measuring.published_scores import read_scores
from mdr_repro.paper.tables import (
    CLAIMS,
    FIGURES,
    SAME_SETTING,
    TABLES,
    paper_text,
    plain,
    printed_value,
    tables_in_text,
)
from mdr_repro.study import measure as experiments
from mdr_repro.study.cells import EXPERIMENTS, cell_specs, experiment_cells, experiment_specs
from mdr_repro.study.measure import keep_records, measure, open_store, train_missing
from mdr_repro.study.plan import work
from mdr_repro.study.profiles import SLOTS, Profile, Slot, get_profile
from mdr_repro.study.results import data_folder, provenance
from mdr_repro.training.run_spec import Schedule
from mdr_repro.training.run_store import NoWeights, RunStore, StoreError, read_record, write_record
from mdr_repro.training.trainer import signed

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ("table_02", "table_05", "table_06", "figure_05")
text = paper_text()
needs_paper = pytest.mark.skipif(text is None, reason="the paper's text (shared/paper) is not here")


# the paper


@needs_paper
@pytest.mark.parametrize("id", TABLES)
def test_every_cell_is_printed_in_the_paper(id):
    head, *rows = tables_in_text(text)[id]
    table = TABLES[id]
    assert [plain(c) for c in head] == [plain(c) for c in table.setting_columns + table.columns]
    assert [[plain(c) for c in row] for row in rows] == [
        [plain(c) for c in (*r.settings.values(), *r.results.values())] for r in table.rows
    ]


@needs_paper
def test_a_wrong_digit_is_found():
    "The comparison above would notice a typing error."
    changed = tables_in_text(text.replace("93.18", "93.81"))
    assert [id for id in TABLES if changed[id] != tables_in_text(text)[id]] == [
        "table_04",
        "table_05",
        "table_08",
    ]


@needs_paper
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_every_claim_quotes_the_paper(claim):
    assert plain(claim.text) in plain(text)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_every_claim_points_at_cells(claim):
    assert claim.table in TABLES or claim.table in FIGURES
    if claim.kind != "similar":
        assert len(claim.better) == len(claim.worse) and set(claim.better) != set(claim.worse)
    else:
        assert (
            claim.kind == "similar"
            and len(claim.better) > 1
            and not claim.worse
            and claim.margin > 0
        )
    if claim.table in FIGURES:
        return
    # those are counted
    places = {
        tuple(p) for p in (*claim.better, *claim.worse) if p.column not in ("Params", "FLOPs")
    }
    assert places <= {(c.row, c.column) for c in experiment_cells(claim.table)}, (
        "a place that no experiment fills"
    )
    if claim.computed is None:
        assert claim.difference is None and not {column for _, column in places} & set(
            TABLES[claim.table].columns
        )  # ours, beside the printed ones


def test_same_settings_point_at_cells():
    assert all(
        TABLES[t].value(row, column) > 0
        for cells in SAME_SETTING.values()
        for t, row, column in cells
    )


def test_every_result_column_has_a_slot():
    assert all(slot in SLOTS for table in TABLES.values() for slot in table.slots.values())


# profiles and experiments


def test_spec_ids_do_not_depend_on_the_process():
    code = (
        "from mdr_repro.study.cells import EXPERIMENTS, experiment_specs; print(*(s.id for t in"
        " sorted(EXPERIMENTS) for s in experiment_specs(t)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()
    assert (
        there == [s.id for t in sorted(EXPERIMENTS) for s in experiment_specs(t)]
        and len(there) > 20
    )


@pytest.mark.parametrize("profile", ["smoke", "paper"])
def test_tables_that_meet_share_their_runs(profile):
    def ids(table):
        return {
            c.row: get_profile(profile).spec(c.slot, **c.changes, data_checksum="0" * 64).id
            for c in experiment_cells(table, profile)
        }

    two, five, six = ids("table_02"), ids("table_05"), ids("table_06")
    assert two["C8"] == five["a_in + a_out + norm"] and six["T2"] == five["softmax"]
    assert len({*two.values(), *five.values(), *six.values()}) == 16


OWN_ROWS = {
    "table_01": [
        ("ST-GCN + CVSTA (gated, ours)", "Accuracy(%)"),
        ("CTR-GCN + CVSTA (gated, ours)", "Accuracy(%)"),
    ]
}  # below the printed ones


@pytest.mark.parametrize("id", [t for t in EXPERIMENTS if t in TABLES])
def test_an_experiment_fills_its_whole_table(id):
    """Every printed accuracy has its cell, row by row; what stands beside them has another column's
    name, or a row's name that says so."""
    trained = [c for c in TABLES[id].columns if c not in ("Params", "FLOPs")]
    places = [(c.row, c.column) for c in experiment_cells(id) if c.column in trained]
    printed = [
        (r.name, column)
        for r in TABLES[id].rows
        for column in trained
        if printed_value(r.results[column]) is not None
    ]
    assert places == printed + OWN_ROWS.get(id, [])
    assert len({(c.row, c.column) for c in experiment_cells(id)}) == len(experiment_cells(id))
    for c in experiment_cells(id):
        if c.column in trained:
            assert c.slot.removesuffix("_all_frames") == TABLES[id].slots[c.column]


# as published; the others have the profile's modalities
OWN_STREAMS = {"2S-AGCN": 2, "PoseC3D": 2, "InfoGCN": 6, "MSIN": 1, "Efficient-GCN B4": 1}


@pytest.mark.parametrize("profile", ["smoke", "replica", "paper"])
def test_tables_nine_to_eleven_have_one_stream_and_fused_top1_and_mean_class(profile):
    for id, fused in (
        ("table_09", "Accuracy(%)"),
        ("table_10", "Fused(%)"),
        ("table_11", "X-sub(%)"),
    ):
        cells = experiment_cells(id, profile)
        assert {c.quantity for c in cells} == {"accuracy", "mean_class"} and all(
            c.comparison for c in cells
        )
        streams = {c.row: len(c.streams) for c in cells if c.column == fused}
        most = len(get_profile(profile).modalities)
        # of joints, as many as the profile has streams
        modes = {"InfoGCN": 6 if most == 4 else most}
        assert streams == {row: modes.get(row, OWN_STREAMS.get(row, most)) for row in streams}
        assert (most > 1) == (profile != "smoke")  # made-up clips need one stream
        single = [
            c
            for c in cells
            if "ne stream" in c.column or (id == "table_10" and "used" not in c.column)
        ]
        assert {(c.row, c.column) for c in single if len(c.streams) != 1} == (
            {("2S-AGCN", "Accuracy(%)"), ("2S-AGCN", "Mean class(%)")}
            if id == "table_10"
            else set()
        )
        # its name's two streams, where the others have one
        assert all(len(c.streams) == 2 for c in single if (id, c.row) == ("table_10", "2S-AGCN"))


@pytest.mark.parametrize(
    "slot, file",
    [
        ("fsd10", "train_data_25.npy"),
        ("fsd10_all_frames", "train_label_25.pkl"),
        ("finegym99", "gym_hrnet.pkl"),
        ("ntu60_xsub", "NTU60_CS.npz"),
        ("ntu60_xview", "NTU60_CV.npz"),
    ],
)
def test_missing_data_says_what_to_put_where(slot, file, tmp_path):
    with pytest.raises(DataError, match=file) as e:
        get_profile("paper").spec(slot, data_root=str(tmp_path))
    assert SLOTS[slot] in str(e.value) and "\n" not in str(e.value)


# the smoke profile's settings: its clips, its schedule and what they are tuned for


def test_smoke_has_the_settings_that_were_tuned():
    """Changing one of these asks for trying all fifteen networks and hardswish again: see the
    profile's page."""
    p = get_profile("smoke")
    for name, slot in p.slots.items():
        epochs, lr = (8, 0.02) if name.startswith("fsd10") else (7, 0.03)
        assert slot.schedule == Schedule(
            epochs,
            8,
            lr=lr,
            policy="cosine",
            warmup_epochs=2,
            evaluate_every=epochs,
            weight_decay=5e-4,
        ), name
        assert slot.options["as_gcn"] == {
            "dropout": 0.0,
            "init_std": 0.16,
            "link_frames": 8,
            "horizon": 1,
        }, name
    assert {s.sampling for s in p.slots.values()} == {
        Sampling(num_frames=8, mode="uniform", center="frame")
    }
    assert {s.width for s in p.slots.values()} == {1 / 8} and (
        p.seeds,
        p.comparison_seeds,
        p.verdicts,
    ) == (2, 1, False)
    for name, slot in p.slots.items():
        source = dict(pair.split("=") for pair in slot.data.removeprefix("synthetic:").split(","))
        assert {
            k: source[k]
            for k in ("num_clips", "num_classes", "apart", "variation", "yaw", "pitch", "mirrored")
        } == dict(
            num_clips="96" if name.startswith("fsd10") else "100",
            num_classes="4",
            apart="13",
            variation="0.05",
            yaw="0",
            pitch="0",
            mirrored="0",
        ), name
        assert tuple(map(source.get, ("num_persons", "partner", "roam"))) == (
            ("2", "1", "0.05") if name.startswith("ntu60") else (None,) * 3
        )


def test_hardswish_ends_well_at_twice_smokes_rate(tmp_path):
    """Seed 2 is the first to diverge, at three times the rate: a processor that adds up in another
    order must not reach that edge."""
    p, (cell,) = (
        get_profile("smoke"),
        [c for c in experiment_cells("table_06", "smoke") if c.row == "H1"],
    )
    spec = cell_specs(cell, p, 2)[0]
    spec = replace(spec, schedule=replace(spec.schedule, lr=2 * spec.schedule.lr))
    assert RunStore(tmp_path).ensure([spec], progress=False)[0].result["top1"] >= 0.7


def test_smoke_clips_are_learnt(tmp_path):
    "The cheapest network of them: 85 % of the test clips and more, where chance is a quarter."
    spec = get_profile("smoke").spec("short", backbone="st_gcn", objective="softmax")
    assert RunStore(tmp_path).ensure([spec], progress=False)[0].result["top1"] >= 0.85


# measured tables, with runs of a second


def tiny(**schedule) -> Profile:
    "The smoke profile's clips with a network of hardly any channels for one epoch."

    def shrink(s: Slot):
        return replace(
            s,
            data="synthetic:num_clips=24,num_classes=3,skeleton=coco17,dims=2",
            width=1 / 32,
            sampling=Sampling(num_frames=8),
            schedule=replace(Schedule(epochs=1, batch_size=8, lr=0.01), **schedule),
        )

    return Profile(
        "tiny", "a test", 2, {name: shrink(s) for name, s in get_profile("smoke").slots.items()}
    )


def without_timing(value):
    if isinstance(value, dict):
        return {k: without_timing(v) for k, v in value.items() if k != "timing"}
    return [without_timing(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A store with the runs of Figure 5."
    root = tmp_path_factory.mktemp("results")
    store = open_store(root)
    train_missing(store, experiment_specs("figure_05", tiny()), say=None)
    return store, measure(store, "figure_05", tiny())


def test_the_same_numbers_again(trained, tmp_path):
    "A second store, trained anew, writes the same table but for timing."
    store, table = trained
    again = open_store(tmp_path)
    counts = train_missing(again, experiment_specs("figure_05", tiny()))
    assert counts.to_dict() == {"done": 4}
    saved = []
    for name, t in (("first", table), ("second", measure(again, "figure_05", tiny()))):
        (tmp_path / name).mkdir()
        t.save(tmp_path / name)
        saved.append(json.loads((tmp_path / name / "table.json").read_text()))
    assert without_timing(saved[0]) == without_timing(saved[1])
    assert (tmp_path / "first/table.csv").read_text() == (tmp_path / "second/table.csv").read_text()
    assert (tmp_path / "first/table.md").read_text() == (tmp_path / "second/table.md").read_text()
    assert [c["measured"]["n"] for c in saved[0]["cells"]] == [2] * 10 and len(
        saved[0]["provenance"]["runs"]
    ) == 4


def test_a_changed_record_changes_its_cells_and_nothing_else(trained, tmp_path):
    "No number is typed by hand: the table says what the record says."
    store, table = trained
    shutil.copytree(store.root, tmp_path / "results")
    changed = table.cells[0].runs[0]
    path = tmp_path / "results" / "runs" / changed / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"top1": 0.4321, "mean_class": 0.1234}))
    with pytest.raises(StoreError, match="not as it was written"):
        measure(open_store(tmp_path / "results"), "figure_05", tiny())
    # as if it had come out so
    path.write_text(json.dumps(signed(result | {"top1": 0.4321, "mean_class": 0.1234})))
    again = measure(open_store(tmp_path / "results"), "figure_05", tiny())
    differing = [
        (old.row, old.column)
        for old, new in zip(table.cells, again.cells)
        if old.values != new.values
    ]
    assert differing == [(table.cells[0].row, "Accuracy(%)")]
    assert (
        again.cells[0].values[0] == pytest.approx(43.21)
        and again.cells[0].values[1] == table.cells[0].values[1]
    )
    (tmp_path / "out").mkdir()
    again.save(tmp_path / "out")
    assert (
        again.cells[0].values[0]
        in json.loads((tmp_path / "out" / "table.json").read_text())["cells"][0]["values"].values()
    )


def test_a_table_is_made_from_records_alone(trained, tmp_path, monkeypatch):
    "In an empty store, without weights and without training: the same numbers to the last digit."
    store, table = trained
    shutil.copytree(store.root, tmp_path / "home")
    kept = keep_records(open_store(tmp_path / "home"), tiny(), ["figure_05"])
    assert len(kept) == 4 and all(
        sorted(p.name for p in k.iterdir())
        == ["metrics.jsonl", "record.json", "result.json", "scores.npz", "spec.json"]
        for k in kept
    )
    shutil.copytree(kept[0].parent, tmp_path / "away" / "any profile" / "records")

    def never(*_):
        raise AssertionError("a recorded run was trained")

    monkeypatch.setattr("mdr_repro.training.run_store.train", never)
    there, specs = open_store(tmp_path / "away"), experiment_specs("figure_05", tiny())
    assert (
        train_missing(there, specs).to_dict() == {"done": 4} and work(there, specs, say=never) == {}
    )
    saved = []
    for name, t in (("here", table), ("there", measure(there, "figure_05", tiny()))):
        (tmp_path / name).mkdir()
        t.save(tmp_path / name)
        saved.append(json.loads((tmp_path / name / "table.json").read_text()))
    assert (
        without_timing(saved[0]) == without_timing(saved[1])
        and [c["measured"]["n"] for c in saved[1]["cells"]] == [2] * 10
    )
    assert (tmp_path / "here/table.csv").read_text() == (tmp_path / "there/table.csv").read_text()
    assert (
        not (tmp_path / "away" / "runs").exists()
        and experiments.cell_records(there, "figure_05", tiny()) == {}
    )
    with pytest.raises(NoWeights, match="mdr-repro work --runs"):
        there.get(specs[0]).model()

    changed = tmp_path / "away" / "any profile" / "records" / specs[0].id / "record.json"
    whole = changed.read_text()
    said = json.loads(whole)
    changed.write_text(json.dumps(said | {"quantities": said["quantities"] | {"silhouette": 0.99}}))
    with pytest.raises(StoreError, match="record.json: not as it was written"):
        measure(there, "figure_05", tiny())
    changed.write_text(whole.replace('"silhouette": ', '"silhouettes": '))
    with pytest.raises(StoreError, match="record.json: not as it was written"):
        measure(there, "figure_05", tiny())
    shutil.rmtree(changed.parent)
    assert (
        there.status(specs[0]) == "missing" and [there.status(s) for s in specs[1:]] == ["done"] * 3
    )


def test_runs_at_half_of_the_epochs_travel_with_the_verdicts_that_rest_on_them(tmp_path):
    store, specs = open_store(tmp_path), experiment_specs("figure_05", tiny(epochs=2))
    train_missing(store, specs, say=None)
    assert {s.schedule.epochs for s in specs} == {1, 2}
    kept = keep_records(store, tiny(epochs=2), ["figure_05"])
    assert {p.name for p in kept} == {s.id for s in specs}


def test_records_are_written_once_and_again_where_something_is_new(trained, tmp_path):
    store, _ = trained
    shutil.copytree(store.root, tmp_path / "home")
    home = open_store(tmp_path / "home")
    for path in (tmp_path / "home").glob("runs/*/quantities.json"):
        path.unlink()  # as if the table had not been made yet
    bare = write_record(
        home.get(experiment_specs("figure_05", tiny())[0]), home.root / tiny().name / "records"
    )
    assert json.loads((bare / "record.json").read_text())["quantities"] == {}
    kept = keep_records(home, tiny(), ["figure_05"])
    assert set(json.loads((bare / "record.json").read_text())["quantities"]) >= {
        "outliers",
        "purity",
        "silhouette",
    }
    stamps = {p: p.stat().st_mtime_ns for k in kept for p in k.iterdir()}
    assert keep_records(home, tiny(), ["figure_05"]) == kept and stamps == {
        p: p.stat().st_mtime_ns for k in kept for p in k.iterdir()
    }
    (bare / "scores.npz").write_bytes(b"damaged")
    keep_records(home, tiny(), ["figure_05"])
    assert (
        read_record(home.get(experiment_specs("figure_05", tiny())[0]).spec, bare).scores().top1
        == home.get(experiment_specs("figure_05", tiny())[0]).result["top1"]
    )


def test_two_systems_are_compared_on_the_same_clips(trained, tmp_path):
    """A run's own record, read as somebody else's, is that run; the test over clips sees the
    difference that the table shows."""
    store, table = trained
    one, two = (store.get(s) for s in experiment_specs("figure_05", tiny())[:2])
    read = read_scores(write_record(one, tmp_path) / "scores.npz", like=two.scores())
    assert read.top1 == one.result["top1"] and read.names == two.scores().names
    found = two_networks(read, two.scores())
    assert found.effect == pytest.approx(
        one.result["top1"] - two.result["top1"]
    ) and found.interval.n == len(read.labels)
    both = seeds_and_clips([one.scores(), read], [two.scores()], draws=200)
    assert both.effect == pytest.approx(found.effect) and both.seeds == (2, 1)
    short = tmp_path / "short.csv"
    short.write_text("name,prediction\n" + "".join(f"{n},0\n" for n in read.names[1:]))
    with pytest.raises(
        DataError,
        match=f"1 of the run's {len(read.names)} test clips are missing, first '{read.names[0]}'",
    ):
        read_scores(short, two.scores())


def test_measured_values_are_those_of_the_runs(trained):
    store, table = trained
    for cell in (c for c in table.cells if c.column == "Accuracy(%)"):
        for (seed, value), run in zip(cell.values.items(), cell.runs):
            scores = next(r for r in table.records if r.spec.id == run)
            assert scores.spec.seed == seed and value == pytest.approx(100 * scores.scores().top1)


def test_features_are_those_the_scores_came_from(trained):
    "The classifier on the features that Figure 5 draws gives the stored scores again."
    import torch

    store, table = trained
    record = table.records[0]
    features, labels = experiments.clip_features(store, record.spec)
    with torch.no_grad():
        logits = record.model().objective.logits(torch.from_numpy(features))
    torch.testing.assert_close(
        logits, torch.from_numpy(record.scores().scores), rtol=1e-4, atol=1e-4
    )
    assert (labels == record.scores().labels).all()


def test_a_run_without_time_leaves_its_cell_with_the_reason(tmp_path):
    store = open_store(tmp_path)
    assert train_missing(
        store, experiment_specs("table_05", tiny()), max_minutes=1e-9
    ).to_dict() == {"missing": 16}
    table = measure(store, "table_05", tiny())
    assert all("2 of 2 runs not trained" in c.note and not c.values for c in table.cells)
    assert {v.verdict for v in table.verdicts} == {"not run"}
    table.save(tmp_path)
    table.draw()
    assert json.loads((tmp_path / "table.json").read_text())["cells"][0]["measured"] is None


def test_a_diverged_run_is_reported_and_the_table_written(tmp_path, capsys):
    wild = tiny(lr=1e30)
    store = open_store(tmp_path)
    counts = train_missing(store, experiment_specs("figure_05", wild, seeds=1))
    assert counts.to_dict() == {"diverged": 2} and "no longer finite" in capsys.readouterr().out
    table = measure(store, "figure_05", wild, seeds=1)
    assert all("diverged in 1 of 1 runs: " in c.note and "finite" in c.note for c in table.cells)
    table.save(tmp_path)
    assert "diverged in 1 of 1" in (tmp_path / "table.md").read_text()


def test_provenance_names_no_place_and_no_person(trained):
    import getpass
    import platform

    store, table = trained
    words = json.dumps(provenance(table.records))
    for private in (platform.node(), str(store.root), str(Path.home()), str(ROOT)):
        assert private not in words
    assert f"/{getpass.getuser()}/" not in words


def test_a_relative_folder_counts_from_the_project(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "settings.ini").touch()
    monkeypatch.chdir(tmp_path / "a/b")
    assert open_store("results", "data").root == tmp_path / "results" and data_folder(
        "data"
    ) == str(tmp_path / "data")


# the experiment notebooks


@pytest.mark.parametrize("id", NOTEBOOKS)
def test_notebook_front_matter_and_parameters(id):
    nb = nbformat.read(ROOT / f"nbs/experiments/{id}.ipynb", 4)
    assert nb.cells[0].cell_type == "raw" and "skip_exec: true" in nb.cells[0].source
    tagged = [c for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = [line.split(" = ")[0] for line in tagged[0].source.splitlines()]
    assert names == ["profile", "seeds", "device", "data_root", "results_root", "max_minutes"]
    assert all("  # " in line for line in tagged[0].source.splitlines())
    assert not any(c.get("outputs") for c in nb.cells)
