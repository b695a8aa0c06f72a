"""The plan on the real profiles: what its notebook shows on small ones."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from mdr_repro.clips.sources import source_checksum
from mdr_repro.measuring.efficiency import count_macs
from mdr_repro.models import build_backbone
from mdr_repro.paper.tables import TABLES
from mdr_repro.study.cells import (
    EXPERIMENTS,
    SYSTEMS,
    as_profile,
    cell_specs,
    experiment_cells,
    experiment_specs,
)
from mdr_repro.study.plan import (
    Place,
    clip_macs,
    expected_seconds,
    first_batch,
    gather,
    in_paper,
    make_plan,
    measure_network,
    measured_steps,
    most_valuable,
    operations,
    plan_table,
    published_clips,
    run_weights,
    steps_file,
)
from mdr_repro.study.profiles import get_profile
from mdr_repro.training.run_spec import Schedule
from mdr_repro.training.run_store import RunStore
from mdr_repro.use.command_line import main

ALL = list(EXPERIMENTS)


@pytest.fixture(scope="module")
def smoke():
    return make_plan(ALL, "smoke")


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    "The paper's own sets, with an empty data folder."
    return make_plan(ALL, "paper", data_root=str(tmp_path_factory.mktemp("nothing")))


@pytest.mark.parametrize("id", ALL)
def test_a_plan_has_exactly_the_runs_of_its_notebooks(id):
    assert set(make_plan([id], "smoke").runs) == {s.id for s in experiment_specs(id, "smoke")}
    assert set(make_plan([id], "smoke", seeds=3).runs) == {
        s.id for s in experiment_specs(id, "smoke", 3)
    }


def test_every_cell_and_seed_has_all_of_its_runs(smoke):
    profile, places = as_profile("smoke"), smoke.places
    expected = {
        Place(id, c.row, c.column, seed): sorted(s.id for s in cell_specs(c, profile, seed))
        for id in ALL
        for c in experiment_cells(id, profile)
        for seed in c.seeds(profile)
    }
    assert {p: sorted(ids) for p, ids in places.items()} == {
        p: ids for p, ids in expected.items() if ids
    }
    assert len(smoke.runs) < sum(map(len, places.values())) and not smoke.absent


def test_data_that_is_not_here_is_planned_in_full(paper):
    cells = [c for id in ALL for c in experiment_cells(id, "paper") if not c.missing]
    assert len(paper.places) == sum(len(c.seeds(get_profile("paper"))) for c in cells)
    assert paper.absent == frozenset(paper.runs)
    assert {paper.slots[id] for id in paper.runs} == {c.slot for c in cells} and len(
        [p for p in paper.problems if p.startswith("data missing")]
    ) == len({c.slot for c in cells})
    for problem in paper.problems:
        assert "\n" not in problem
    # still shared
    assert any(len({p.experiment for p in places}) > 2 for places in paper.serves.values())


def test_what_is_absent_is_not_trained(paper, tmp_path, capsys):
    nothing = tmp_path / "data"
    nothing.mkdir()
    assert (
        main(
            [
                "work",
                "--profile",
                "paper",
                "--only",
                "table_02",
                "--seeds",
                "1",
                "--data-root",
                str(nothing),
                "--results-root",
                str(tmp_path),
            ]
        )
        == 1
    )
    out = capsys.readouterr().out
    assert (
        "cannot run: data missing" in out
        and "0 of 0 runs done" in out
        and not list(tmp_path.glob("runs/*"))
    )


def test_the_same_card_is_estimated_from_its_own_measurements(
    paper, tmp_path, capsys, root, monkeypatch
):
    """A timed step of one network gives the hours of its own setting, and by operations those of
    its kind."""
    monkeypatch.chdir(root)
    two = make_plan(["table_02"], "paper", 1, str(tmp_path / "data"))
    store = RunStore(tmp_path)
    known = gather(two, store)
    first, other = list(two.runs.values())[:2]
    macs, N = clip_macs(first, known.of(first)), first.schedule.batch_size
    step = {
        "device": known.device,
        "backbone": first.backbone,
        "options": json.loads(first.canonical())["backbone_options"],
        "precision": "fp32",
        "shape": [N, 3, first.sampling.num_frames, 25, 1],
        "macs": macs,
        "train": 0.25,
        "test": 0.05,
    }
    steps_file(store).parent.mkdir(parents=True)
    steps_file(store).write_text(json.dumps([step, {**step, "device": "another", "train": 1e9}]))
    known = gather(two, store)
    clips = known.of(first)
    assert (clips.train, clips.test) == get_profile("paper").slot("fsd10").size
    # 1059 clips in batches of 48: the last three are dropped
    trained = clips.train - clips.train % N
    assert first.schedule.last_batch == "drop" and trained < clips.train
    seconds = (
        first.schedule.epochs * (trained / N * 0.25 + clips.test / N * 0.05) + clips.test / N * 0.05
    )  # tested after every epoch and once more
    assert expected_seconds(first, known).seconds == pytest.approx(seconds)
    assert expected_seconds(other, known).seconds == pytest.approx(
        operations(other, clips) / (3 * macs * N / 0.25)
    )
    assert [expected_seconds(s, known).basis for s in (first, other)] == ["steps", "operations"]
    table = plan_table(two, store, known)
    assert (
        main(
            [
                "plan",
                "--profile",
                "paper",
                "--only",
                "table_02",
                "--seeds",
                "1",
                "--data-root",
                str(tmp_path / "data"),
                "--results-root",
                str(tmp_path),
                "--tflops",
                "10",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert (
        f"{table['operations'].sum() / 1e13 / 3600:.0f} GPU hours at a sustained 10 TFLOP/s" in out
        and "operations 6, steps 2" in out
    )


@pytest.mark.parametrize("backbone", SYSTEMS.values())
def test_counts_are_those_of_the_whole_network(backbone):
    "`clip_macs` passes over what the counter does not count; here nothing is passed over."
    clips = published_clips("ntu60_xsub", (40320, 16560), "NTU")
    spec = get_profile("smoke").spec("fsd10", backbone=backbone)
    spec = replace(spec, backbone_options={})
    net = build_backbone(backbone, clips.skeleton, 3, 2).to("meta")
    assert clip_macs(spec, clips) == count_macs(net, (1, 3, spec.sampling.num_frames, 25, 2), 60)


def test_nothing_measured_is_a_question_mark_and_no_number(paper, tmp_path):
    store = RunStore(tmp_path)
    small = make_plan(["table_02"], "paper", 1, str(tmp_path))
    table = plan_table(small, store, gather(small, store))
    assert (
        table["each"].isna().all()
        and set(table["by"]) == {"unknown"}
        and (table["operations"] > 0).all()
    )


def test_a_step_is_timed_and_scaled_up(tmp_path, monkeypatch):
    spec = replace(
        get_profile("smoke").spec("fsd10"),
        schedule=Schedule(1, 8),
        sampling=replace(get_profile("smoke").slot("fsd10").sampling, num_frames=8),
    )
    plan = make_plan(["table_02"], "smoke", 1)
    clips = gather(plan, RunStore(tmp_path)).of(spec)
    macs = clip_macs(spec, clips)
    assert first_batch(spec, macs, "cuda") == 8 == first_batch(spec, macs, "cpu")
    monkeypatch.setattr("mdr_repro.study.plan.CPU_STEP", 3.5 * 3 * macs)
    assert first_batch(spec, macs, "cpu") == 3
    timed = []
    monkeypatch.setattr(
        "mdr_repro.study.plan.time_steps",
        lambda spec, clips, device, batch: timed.append(batch) or (0.3, 0.06),
    )
    found = measure_network(spec, clips, "cpu")
    assert (
        timed == [3]
        and found["train"] == pytest.approx(0.8)
        and found["test"] == pytest.approx(0.16)
        and found["shape"] == [8, 3, 8, 25, 1]
    )
    monkeypatch.setattr("mdr_repro.study.plan.CPU_STEP", 1.0)
    assert measure_network(spec, clips, "cpu") is None


def test_measuring_fills_the_file_and_does_not_measure_twice(root, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(root)
    plan = [
        "plan",
        "--only",
        "table_02",
        "--seeds",
        "1",
        "--results-root",
        str(tmp_path),
        "--measure",
    ]
    assert main(plan) == 0
    out, store = capsys.readouterr().out, RunStore(tmp_path)
    assert "[4/4] mdr_gcn" in out and "steps 4" in out
    steps = measured_steps(store)
    assert len(steps) == 4 and all(
        s["train"] > s["test"] > 0 and s["timed_clips"] == s["shape"][0] for s in steps
    )
    assert (
        main(plan) == 0 and "[1/" not in capsys.readouterr().out and measured_steps(store) == steps
    )


# the order


def test_a_table_is_finished_before_the_next_begins(smoke, tmp_path, monkeypatch):
    """Once a table of the paper is begun with a run of its own, nothing that does not serve it
    comes in between."""
    monkeypatch.setattr(
        "mdr_repro.study.plan.run_weights", lambda plan, ids, known: dict.fromkeys(ids, 1.0)
    )
    order = most_valuable(smoke, RunStore(tmp_path))
    assert sorted(s.id for s in order) == sorted(smoke.runs) and [s.seed for s in order] == sorted(
        s.seed for s in order
    )
    order = [s.id for s in order if s.seed == 0]
    for id in TABLES:
        own = {
            run
            for p, ids in smoke.places.items()
            if p.experiment == id and p.seed == 0 and in_paper(p)
            for run in ids
        }
        alone = [
            i
            for i, run in enumerate(order)
            if {p.experiment for p in smoke.serves[run] if in_paper(p)} == {id} and run in own
        ]
        assert alone == list(range(alone[0], alone[0] + len(alone))) if alone else True, id
    last = [any(in_paper(p) for p in smoke.serves[run]) for run in order]
    assert last == sorted(last, reverse=True)  # what the paper neither prints nor claims comes last


def test_cheap_tables_come_first(paper, tmp_path):
    """With seconds in proportion to operations, the first table costs less for what it gives than
    any other."""
    store = RunStore(tmp_path)
    small = make_plan(["table_05", "table_11"], "paper", 1, str(tmp_path))
    order = [{p.experiment for p in small.serves[s.id]} for s in most_valuable(small, store)]
    assert order[0] == {"table_05"} and order[-1] == {"table_11"}
    weights = run_weights(small, list(small.runs), gather(small, store))
    cost = {
        id: sum(
            w for run, w in weights.items() if any(p.experiment == id for p in small.serves[run])
        )
        for id in ("table_05", "table_11")
    }
    assert cost["table_05"] < cost["table_11"]


def test_two_workers_share_a_list(root, tmp_path):
    "Each run is trained by one of them, and both end when all are done."
    spec = replace(get_profile("smoke").spec("fsd10"), schedule=Schedule(1, 8, evaluate_every=1))
    source = "synthetic:num_clips=24,num_classes=3,skeleton=coco17,dims=2"
    specs = [
        replace(spec, seed=seed, data=source, data_checksum=source_checksum(source))
        for seed in range(4)
    ]
    (tmp_path / "runs.txt").write_text("".join(s.canonical() + "\n" for s in specs))
    command = [
        sys.executable,
        "-c",
        "from mdr_repro.use.command_line import main; raise SystemExit(main())",
        "work",
        f"--runs={tmp_path / 'runs.txt'}",
        f"--results-root={tmp_path}",
    ]
    both = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [p.communicate(timeout=300)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and all(
        "4 of 4 runs done, 0 failed" in text for text in said
    )
    trained = re.findall(r"^done ([0-9a-f]{12}),", "".join(said), re.M)
    assert sorted(trained) == sorted(s.id for s in specs)
