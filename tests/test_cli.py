"The command line as a user meets it."

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdr_repro.clips.batches import batches
from mdr_repro.clips.sampling import Sampling
from mdr_repro.clips.sources import open_clips
from mdr_repro.models.st_gcn import STGCN
from mdr_repro.skeleton import get_skeleton
from mdr_repro.use.command_line import main, make_parser, train_specs

TINY = [
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


def said(capsys):
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_installed_command_says_its_version():
    run = subprocess.run(
        [Path(sys.executable).parent / "mdr-repro", "--version"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 and run.stdout.startswith("mdr-repro 0.")


def test_every_knob_of_a_run_is_listed_with_a_word_on_it(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    assert end.value.code == 0
    text, _ = said(capsys)
    for knob in (
        "--num-frames",
        "--frames",
        "--mode",
        "--stride",
        "--padding",
        "--rotate",
        "--epochs",
        "--batch-size",
        "--lr",
        "--milestones",
        "--no-nesterov",
        "--centers-lr",
        "--hold-out",
        "--option",
    ):
        assert knob in text
    assert "(default: 0.95)" in text


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["train", "--data", "nowhere.npz", "--epochs", "1", "--batch-size", "8"], "nowhere.npz"),
        ([*TINY, "--backbone", "mdr_gnc"], "unknown backbone 'mdr_gnc'"),
        ([*TINY, "--objective", "rld"], "unknown objective 'rld'"),
        ([*TINY, "--option", "reductoin=4"], "reduction"),
        ([*TINY, "--mode", "crop"], "known: crop_resize"),
        ([*TINY, "--stride", "2"], "stride belongs to mode 'pad'"),
        ([*TINY, "--modality", "bones"], "known: joint, bone"),
        (["plan", "--profile", "smok"], "known: smoke"),
        (["reproduce", "--only", "table_5"], "did you mean table_05?"),
        (["data", "show", "synthetic:num_clip=3"], "num_clip"),
        (
            ["data", "show", "synthetic:num_clips=20,num_classes=2", "--split", "xview"],
            "no split 'xview'",
        ),
        (
            ["data", "convert", "synthetic:num_clips=20,num_classes=2"],
            "name the .npz that shall be written",
        ),
        (
            ["data", "fetch", "ntu60", "--data-root", "."],
            "ask for access on https://rose1.ntu.edu.sg",
        ),
        (["data", "fetch", "nw_ucla"], "--data-root"),
        (["data", "fetch"], "name a set: nw_ucla, kinder_gator, penn_action, utd_mhad, finegym99"),
        (
            ["predict", "synthetic:num_clips=20,num_classes=2", "--run", "abc"],
            "run 'abc': neither the beginning of a run's id nor a run's folder",
        ),
        (["show", "synthetic:num_clips=20,num_classes=2", "--clip", "99"], "has no clip '99'"),
        (
            [
                "work",
                "--only",
                "figure_05",
                "--seeds",
                "1",
                "--scheduler",
                "tcp://127.0.0.1:1",
                "--workers",
                "2",
            ],
            "give either the address of a scheduler or a number of workers",
        ),
        (["report", "--profile", "smok"], "known: smoke"),
    ],
)
def test_a_mistake_gets_one_sentence_and_status_2(
    capsys, root, monkeypatch, tmp_path, arguments, sentence
):
    monkeypatch.chdir(root)
    if arguments[0] in ("train", "work"):
        arguments = [*arguments, "--results-root", str(tmp_path)]
    assert main(arguments) == 2
    out, err = said(capsys)
    assert (
        err.startswith("mdr-repro: ")
        and sentence in err
        and err.count("\n") == 1
        and "Traceback" not in err
    )
    assert not list(tmp_path.rglob("result.json"))


def test_a_mistake_of_ours_keeps_its_traceback(folder, monkeypatch):
    def broken(*args, **kwargs):
        return np.zeros(3).reshape(2)  # a ValueError from inside numpy

    monkeypatch.setattr("mdr_repro.use.command_line.open_clips", broken)
    with pytest.raises(ValueError, match="reshape"):
        main(["data", "show", "synthetic:num_clips=3"])


def test_train_keeps_its_record_and_does_not_train_twice(folder, capsys):
    assert (
        main(
            [
                *TINY,
                "--seeds",
                "2",
                "--save-record",
                "kept",
                "--option",
                "reduction=4",
                "--objective",
                "softmax",
            ]
        )
        == 0
    )
    out, _ = said(capsys)
    assert "top-1 over 2 seeds" in out
    records = sorted((folder / "kept").iterdir())
    assert len(records) == 2
    for record in records:
        assert sorted(p.name for p in record.iterdir()) == [
            "metrics.jsonl",
            "record.json",
            "result.json",
            "scores.npz",
            "spec.json",
        ]
    specs = [json.loads((r / "spec.json").read_text()) for r in records]
    assert sorted(s["seed"] for s in specs) == [0, 1]
    assert (
        specs[0]["backbone_options"]["reduction"] == 4
        and specs[0]["objective"] == "softmax"
        and specs[0]["sampling"]["num_frames"] == 8
    )
    assert max(specs[0]["backbone_options"]["widths"]) == 256 / 16

    made = {p: p.stat().st_mtime_ns for p in (folder / "results/runs").glob("*/result.json")}
    assert main([*TINY, "--seed", "1", "--option", "reduction=4", "--objective", "softmax"]) == 0
    assert {
        p: p.stat().st_mtime_ns for p in (folder / "results/runs").glob("*/result.json")
    } == made


def test_records_of_finished_runs_are_written_and_train_the_run_again_elsewhere(folder, capsys):
    shutil.copytree(Path(__file__).parents[1] / "nbs", folder / "nbs")
    assert main(["records", "--profile", "smoke", "--only", "table_05"]) == 0
    assert "0 records, 0.0 MiB" in said(capsys)[0]
    assert main([*TINY, "--save-record", "results/some/records"]) == 0
    [kept] = (folder / "results/some/records").iterdir()
    shutil.rmtree(folder / "results/runs")
    assert (
        main(TINY) == 0
        and str(kept) in said(capsys)[0]
        and not (folder / "results/runs" / kept.name).exists()
    )  # nothing is trained
    # as the sentence on missing weights says
    assert main(["work", "--runs", str(kept / "spec.json"), "--results-root", "again"]) == 0
    assert (folder / "again/runs" / kept.name / "model.safetensors").exists()


def test_published_weights_meet_other_clips(folder, capsys):
    body, data = get_skeleton("body25"), "synthetic:num_clips=20,num_classes=2,seed=5"
    torch.manual_seed(0)
    net, classifier = STGCN(body), torch.nn.Linear(256, 2)
    words = [
        ("data_norm", "data_bn"),
        ("layers", "st_gcn_networks"),
        ("graph.conv", "gcn.conv"),
        (".norm.", ".tcn.0."),
        ("temporal.0", "tcn.2"),
        ("temporal.1", "tcn.3"),
    ]  # the published code's

    def theirs(key):
        if key.endswith("importance"):
            return f"edge_importance.{key.split('.')[1]}"
        for ours, word in words:
            key = key.replace(ours, word)
        return key

    state = {
        **{theirs(k): v for k, v in net.state_dict().items()},
        **{f"fcn.{k}": v for k, v in classifier.state_dict().items()},
    }
    torch.save(state, folder / "weights.pt")
    ask = ["evaluate", "weights.pt", "--data", data, "--frames", "16", "--system"]
    assert main([*ask, "st_gcn"]) == 0
    x, y = next(iter(batches(open_clips(data), "test", 64, Sampling(num_frames=16))))
    with torch.no_grad():
        right = (classifier(net.eval()(x)).argmax(1) == y).float().mean().item()
    assert f"st_gcn on {data}, test, {len(y)} clips: top-1 {100 * right:.2f} %" in said(capsys)[0]
    for command, sentence in [
        ([*ask, "ctr_gcn"], "weights.pt: no classifier of ctr_gcn in it"),
        ([*ask, "stgcn"], "unknown system 'stgcn'; known: mdr_gcn"),
        (
            [
                "evaluate",
                "weights.pt",
                "--system",
                "st_gcn",
                "--data",
                data.replace("classes=2", "classes=3"),
            ],
            "weights.pt scores 2 classes",
        ),
    ]:
        assert main(command) == 2
        assert sentence in said(capsys)[1]


def test_time_that_runs_out_is_status_1(folder, capsys):
    assert main([*TINY, "--max-minutes", "0.00001"]) == 1
    assert "the same command goes on" in said(capsys)[0]


def test_data_files_are_listed_shown_and_verified(folder, capsys):
    from mdr_repro.clips.sources import open_clips

    clips = open_clips("synthetic:num_clips=20,num_classes=2,seed=1")
    clips.save(folder / "mine.npz")
    assert main(["data", "list"]) == 0 and "mine.npz" in said(capsys)[0]
    assert main(["data", "show", "mine.npz", "--data-root", str(folder)]) == 0
    shown = said(capsys)[0]
    assert "20 clips" in shown and "2 classes" in shown
    assert (
        main(["data", "verify", "mine.npz", "--data-root", str(folder)]) == 0
        and clips.checksum() in said(capsys)[0]
    )

    whole = (folder / "mine.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert main(["data", "verify", "cut.npz", "--data-root", str(folder)]) == 2
    assert "cut.npz" in said(capsys)[1]


def test_clips_are_converted_and_divided_by_another_protocol(folder, capsys):
    from mdr_repro.clips.sources import open_clips

    clips = open_clips("synthetic:num_clips=20,num_classes=2,seed=1")
    replace(clips, meta=clips.meta | {"split_other": torch.tensor([-1, 1] + [0] * 18)}).save(
        folder / "mine.npz"
    )
    assert (
        main(["data", "show", "mine.npz", "--data-root", str(folder)]) == 0
        and "other splits, for --split or #split=: other" in said(capsys)[0]
    )
    assert (
        main(
            [
                "data",
                "convert",
                "mine.npz",
                str(folder / "other.npz"),
                "--split",
                "other",
                "--data-root",
                str(folder),
            ]
        )
        == 0
        and "19 clips" in said(capsys)[0]
    )
    other = open_clips("other.npz", folder)
    assert other.names == clips.names[1:] and other.split.tolist() == [1] + [0] * 18
    assert (
        main(["data", "convert", "mine.npz", str(folder / "other.npz"), "--data-root", str(folder)])
        == 2
        and "there is such a file already" in said(capsys)[1]
    )


def test_the_papers_sets_in_their_places(root, monkeypatch, capsys, tmp_path):
    "Tiny files in the layouts of the real ones: the plan of profile `paper` finds them all."
    monkeypatch.chdir(root)
    g = np.random.default_rng(0)
    (tmp_path / "FSD-10").mkdir()
    (tmp_path / "FineGYM").mkdir()
    (tmp_path / "NTU60").mkdir()
    for part in ("train", "val"):
        np.save(
            tmp_path / "FSD-10" / f"{part}_data_25.npy",
            g.uniform(-1, 1, (10, 3, 40, 25, 1)).astype(np.float32),
        )
        (tmp_path / "FSD-10" / f"{part}_label_25.pkl").write_bytes(
            pickle.dumps(([f"{part}{i}" for i in range(10)], list(range(10))))
        )
    notes = [
        {
            "frame_dir": f"v{i}",
            "label": i % 99,
            "total_frames": 12,
            "img_shape": (720, 1280),
            "original_shape": (720, 1280),
            "keypoint": g.uniform(1, 700, (1, 12, 17, 2)).astype(np.float16),
            "keypoint_score": np.ones((1, 12, 17), np.float16),
        }
        for i in range(198)
    ]
    split = {
        "train": [n["frame_dir"] for n in notes[:99]],
        "val": [n["frame_dir"] for n in notes[99:]],
    }
    (tmp_path / "FineGYM" / "gym_hrnet.pkl").write_bytes(
        pickle.dumps({"split": split, "annotations": notes})
    )
    x, y = g.normal(size=(60, 300, 150)).astype(np.float32), np.eye(60, dtype=np.float32)
    for name in ("NTU60_CS.npz", "NTU60_CV.npz"):
        np.savez(tmp_path / "NTU60" / name, x_train=x, y_train=y, x_test=x[:, ::-1], y_test=y)
    assert (
        main(
            [
                "plan",
                "--profile",
                "paper",
                "--data-root",
                str(tmp_path),
                "--results-root",
                str(tmp_path / "results"),
                "--seeds",
                "1",
            ]
        )
        == 0
    )
    text = said(capsys)[0]
    assert "cannot run" not in text and "FLOPs" in text and "(some unknown)" not in text
    from mdr_repro.study.profiles import PROFILES

    found = {
        name: open_clips(slot.data, tmp_path) for name, slot in PROFILES["paper"].slots.items()
    }
    assert {
        name: (len(c), c.num_classes, c.skeleton.name, c.meta["coordinates"])
        for name, c in found.items()
    } == {
        **dict.fromkeys(("fsd10", "fsd10_all_frames", "short"), (20, 10, "body25", "xys")),
        "finegym99": (198, 99, "coco17", "xys"),
        "ntu60_xsub": (120, 60, "ntu25", "xyz"),
        "ntu60_xview": (120, 60, "ntu25", "xyz"),
    }


def test_plan_counts_shared_runs_once_and_says_what_it_does_not_know(
    root, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(root)
    plan = [
        "plan",
        "--only",
        "table_02",
        "table_05",
        "--seeds",
        "1",
        "--results-root",
        str(tmp_path),
    ]
    assert main(plan) == 0
    text = said(capsys)[0]
    # C8 of Table II is the last row of Table V
    assert "11 distinct runs for 12 table cells x seeds; 0 done, 11 missing\n" in text
    assert (
        "table_02 C8, table_05 a_in + a_out + norm" in text
        and "without sharing: 12 runs; saved: 1 (8 %)" in text
    )
    assert "time: unknown" in text and "GPU hours" not in text
    assert main([*plan, "--tflops", "0"]) == 2 and "give a speed above 0" in said(capsys)[1]


def test_records_of_a_profile_with_few_experiments(root, capsys, tmp_path):
    data = root.parent / "shared" / "data"
    if not (data / "utd_mhad.npz").is_file():
        pytest.skip("the shared data is not here")
    assert (
        main(
            [
                "records",
                "--profile",
                "validation",
                "--results-root",
                str(tmp_path),
                "--data-root",
                str(data),
            ]
        )
        == 0
    )
    assert "0 records" in capsys.readouterr().out


def test_work_trains_what_the_plan_lacks_and_names_what_diverged(folder, capsys):
    specs = train_specs(make_parser().parse_args([*TINY, "--seeds", "2"]))
    wild = replace(specs[0], schedule=replace(specs[0].schedule, lr=1e30))
    (folder / "runs.txt").write_text("".join(s.canonical() + "\n" for s in (wild, *specs)))
    work = ["work", "--runs", "runs.txt"]
    assert main([*work, "--max-minutes", "0.00001"]) == 0
    assert (
        f"0 of {len(specs) + 1} runs done, 0 failed, {len(specs) + 1} left; the same command"
        " goes on" in said(capsys)[0]
    )
    assert main(work) == 0  # that a run diverges is a result
    text = said(capsys)[0]
    assert (
        f"DIVERGED {wild.id}" in text
        and f"{len(specs)} of {len(specs) + 1} runs done, 0 failed, 1 diverged\n" in text
    )
    made = {p: p.stat().st_mtime_ns for p in (folder / "results/runs").glob("*/result.json")}
    assert (
        len(made) == len(specs)
        and main(work) == 0
        and {p: p.stat().st_mtime_ns for p in made} == made
    )


@pytest.mark.end_to_end
def test_a_small_reproduction_from_notebooks_to_report(root, tmp_path):
    command = [
        Path(sys.executable).parent / "mdr-repro",
        "reproduce",
        "--profile",
        "smoke",
        "--only",
        "table_02",
        "figure_03",
        "--seeds",
        "1",
        "--results-root",
        tmp_path,
    ]
    assert subprocess.run(command, cwd=root, timeout=1200).returncode == 0
    folder = tmp_path / "smoke"
    table = json.loads((folder / "table_02/table.json").read_text())
    assert {c["row"]: len(c["values"]) for c in table["cells"]} == {
        "Cf": 1,
        "C16": 1,
        "C8": 1,
        "C4": 1,
    }
    assert all(0 <= c["measured"]["mean"] <= 100 for c in table["cells"])
    for id in ("table_02", "figure_03"):
        assert json.loads((folder / id / f"{id}.ipynb").read_text())["metadata"]["papermill"][
            "end_time"
        ]
        assert list((folder / id).glob("*.svg"))
    page = (folder / "index.html").read_text()
    for c in table["cells"]:
        assert f"{c['measured']['mean']:.2f} (1 seed)" in page and c["printed"] in page
    assert page.count("data:image/") >= 2

    made = {
        p: p.stat().st_mtime_ns
        for p in (*tmp_path.glob("runs/*/result.json"), *folder.glob("*/*.ipynb"))
    }
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and again.stdout.count("unchanged") == 2
    assert {p: p.stat().st_mtime_ns for p in made} == made  # trained and executed nothing
