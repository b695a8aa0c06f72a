"Clips of one's own: what a trained run says of them, and the page of one of them."

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mdr_repro.clips.batches import batches
from mdr_repro.clips.clip_set import DataError
from mdr_repro.clips.sampling import Sampling, frame_positions
from mdr_repro.clips.sources import open_clips, source_checksum
from mdr_repro.clips.synthetic_clips import synthetic_clips
from mdr_repro.measuring.attention import attention_maps, first_time
from mdr_repro.training.evaluation import evaluate, fuse
from mdr_repro.training.run_spec import RunSpec, Schedule
from mdr_repro.training.run_store import RunStore, StoreError
from mdr_repro.use.clip_page import clip_page, page_html, pick_clip, show
from mdr_repro.use.prediction import find_run, predict, predictions

WIDTHS = (8, 8, 16, 16)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A file of 24 clips, two persons each, and four small runs on it."
    folder = tmp_path_factory.mktemp("home")
    clips = synthetic_clips(
        num_clips=24, num_classes=3, num_persons=2, frames=(48, 60), dropped=0.03, seed=5
    )
    clips.save(folder / "own.npz")
    source, store = str(folder / "own.npz"), RunStore(folder / "results")

    def spec(**changes):
        return RunSpec(
            **{
                **dict(
                    data=source,
                    data_checksum=source_checksum(source),
                    schedule=Schedule(epochs=1, batch_size=8, lr=0.02),
                    objective="softmax",
                    sampling=Sampling(num_frames=24),
                    backbone_options={"widths": WIDTHS},
                ),
                **changes,
            }
        )

    specs = dict(
        joint=spec(),
        bone=spec(modality="bone"),
        padded=spec(sampling=Sampling(num_frames=40, mode="pad", stride=2, padding="loop")),
        st_gcn=spec(backbone="st_gcn", backbone_options={"width": 0.125}),
    )
    records = dict(zip(specs, store.ensure(specs.values(), progress=False)))
    return type(
        "Home",
        (),
        dict(
            folder=folder,
            source=source,
            clips=open_clips(source),
            results=folder / "results",
            **records,
        ),
    )


def one_person(clips):
    return replace(clips, frames=clips.frames[:, :1].clone())


def page_data(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def unpack(q):
    code = np.frombuffer(base64.b64decode(q["data"]), f"<u{q['bytes']}").astype(float)
    return np.where(code == 256 ** q["bytes"] - 1, np.nan, q["low"] + q["step"] * code).reshape(
        q["shape"]
    )


# ---- which run


def test_a_run_is_found_by_id_beginning_and_folder_and_nothing_else(home):
    for name in (home.joint.spec.id, home.joint.spec.id[:8], str(home.joint.folder)):
        assert find_run(name, home.results).spec == home.joint.spec
    with pytest.raises(
        StoreError,
        match=(
            r"neither.*there are"
            rf" .*{min(p.name for p in (home.results / 'runs').glob('[0-9a-f]*'))} \("
        ),
    ):
        find_run("nosuch", home.results)
    with pytest.raises(StoreError, match="no finished run"):
        find_run("abc", home.folder / "elsewhere")
    for name in ("", ".", "../runs", "*"):
        with pytest.raises(StoreError, match="neither"):
            find_run(name, home.results)


def test_an_ambiguous_beginning_lists_whose_it_is(home, tmp_path):
    for end in ("000000", "000001"):
        shutil.copytree(home.joint.folder, tmp_path / "runs" / f"abcdef{end}")
    with pytest.raises(StoreError, match=r"beginning of 2 runs: .*; give more of the id") as e:
        find_run("abcdef", tmp_path)
    assert "\n" not in str(e.value)


def test_a_run_that_is_not_finished_or_damaged_or_without_weights_is_told(home, tmp_path):
    (tmp_path / "runs" / ".partial" / "abc123abc123").mkdir(parents=True)
    with pytest.raises(StoreError, match="abc123abc123 is not finished"):
        find_run("abc1", tmp_path)
    copy = shutil.copytree(home.joint.folder, tmp_path / "runs" / home.joint.spec.id)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(StoreError, match="model.safetensors"):
        find_run(home.joint.spec.id, tmp_path)
    (copy / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="no weights in it"):
        find_run(home.joint.spec.id, tmp_path)
    (copy / "spec.json").write_text("[" * 100_000)
    with pytest.raises(StoreError, match="no run's spec"):
        find_run(home.joint.spec.id, tmp_path)


# ---- predictions


def test_on_its_own_test_clips_a_run_says_what_it_has_stored(home):
    for record in (home.joint, home.bone, home.padded, home.st_gcn):
        table, stored = predictions(home.clips, [record], "test"), record.scores()
        assert list(table.index) == list(stored.names)
        assert table["class_1"].tolist() == [stored.class_names[k] for k in stored.predictions]
        assert table["right"].mean() == pytest.approx(record.result["top1"])
        p = torch.softmax(torch.tensor(stored.scores).double(), 1).sort(descending=True).values
        np.testing.assert_allclose(
            table[[f"probability_{n}" for n in (1, 2, 3)]].astype(float), p, atol=1e-5
        )


def test_runs_are_fused_as_streams_are(home):
    fused = fuse([home.joint.scores(), home.bone.scores()], [1.0, 0.5])
    table = predictions(home.clips, [home.joint, home.bone], "test", weights=[1.0, 0.5])
    assert table["class_1"].tolist() == [fused.class_names[k] for k in fused.predictions]
    assert table["right"].mean() == pytest.approx(fused.top1)
    other = replace(home.bone, result={**home.bone.result, "class_names": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="has other classes than run"):
        predictions(home.clips, [home.joint, other])


def test_classes_that_the_run_does_not_know_are_neither_right_nor_wrong(home):
    names = (*home.clips.class_names[:2], "something else")
    table = predictions(home.clips.with_labels(home.clips.labels, names), [home.joint])
    known = table["label"].isin(home.clips.class_names)
    assert table["right"].notna().tolist() == known.tolist() and not known.all()
    # matched by name, not by number
    order = [2, 0, 1]
    moved = home.clips.with_labels(
        torch.tensor(order)[home.clips.labels],
        [home.clips.class_names[order.index(k)] for k in range(3)],
    )
    pd.testing.assert_frame_equal(
        predictions(moved, [home.joint]), predictions(home.clips, [home.joint])
    )


def test_an_absent_person_is_as_absent_as_in_training(home):
    alone = replace(home.clips, frames=home.clips.frames * torch.tensor([1.0, 0]).view(1, 2, 1, 1))
    pd.testing.assert_frame_equal(
        predictions(one_person(home.clips), [home.joint]), predictions(alone, [home.joint])
    )
    three = replace(
        home.clips,
        frames=torch.cat([home.clips.frames, torch.zeros_like(home.clips.frames[:, :1])], 1),
    )
    pd.testing.assert_frame_equal(
        predictions(three, [home.joint]), predictions(home.clips, [home.joint])
    )


def test_a_third_person_is_told_with_the_clip_that_has_one(home):
    third = torch.zeros_like(home.clips.frames[:, :1])
    third[home.clips.offsets[4] + 2] = 1.0
    with pytest.raises(DataError, match=rf"clip '{home.clips.names[4]}' has more than 2 persons"):
        predictions(
            replace(home.clips, frames=torch.cat([home.clips.frames, third], 1)), [home.joint]
        )


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            lambda c: synthetic_clips(num_clips=6, num_classes=2, skeleton="coco17"),
            "25 joints .body25., the clips have 17",
        ),
        (
            lambda c: replace(
                c,
                skeleton=replace(
                    c.skeleton, joints=(*c.skeleton.joints[:-2], *c.skeleton.joints[:-3:-1])
                ),
            ),
            "whose joint 23 is right_small_toe, and here it is right_heel",
        ),
        (
            lambda c: replace(c, skeleton=replace(c.skeleton, edges=c.skeleton.edges[:-1])),
            "the bone between .* is only in the run",
        ),
        (
            lambda c: replace(c, meta={**c.meta, "coordinates": "xys"}),
            "given by xys, run .* was trained on xyz",
        ),
        (
            lambda c: replace(
                c, frames=c.frames[..., :2].clone(), meta={**c.meta, "coordinates": "xy"}
            ),
            "given by xy,",
        ),
    ],
)
def test_clips_that_do_not_fit_get_one_sentence(home, change, sentence):
    with pytest.raises(DataError, match=sentence) as e:
        predictions(change(home.clips), [home.joint])
    assert "\n" not in str(e.value)


def test_clips_are_measured_from_the_joint_that_the_run_was_shown(home):
    "Meta that the clips lack changes nothing; another joint would."
    told = replace(home.joint, result={**home.joint.result, "coordinates": "xyz", "center": "neck"})
    neck = replace(home.clips, meta={**home.clips.meta, "centered_on": "neck"})
    scores = evaluate(home.joint.model(), neck, "test", home.joint.spec.sampling).scores
    p = torch.softmax(torch.tensor(scores).double(), 1).max(1).values
    np.testing.assert_allclose(
        predictions(home.clips, [told], "test")["probability_1"], p, atol=1e-5
    )
    assert not np.allclose(
        predictions(home.clips, [home.joint], "test")["probability_1"], p, atol=1e-5
    )


def test_the_printed_table_and_the_file_say_the_same(home, tmp_path):
    said = []
    table = predict(
        home.source,
        [home.joint.spec.id[:6], home.bone.spec.id],
        "train",
        top=2,
        csv=str(tmp_path / "told.csv"),
        results_root=home.results,
        say=said.append,
    )
    written = pd.read_csv(tmp_path / "told.csv", index_col="clip")
    assert (
        list(written.index)
        == list(table.index)
        == [home.clips.names[i] for i in home.clips.indices("train")]
    )
    assert [c for c in written if c.startswith("class")] == ["class_1", "class_2"]
    for line, (name, row) in zip(said[1:], written.iterrows()):
        assert line.startswith(name) and f"{row['class_1']} {row['probability_1']:.3f}" in line
    text = "\n".join(said)
    assert (
        f"train {100 * written['right'].mean():.2f} % of {len(written)} clips" in text
        and "not calibrated" in text
        and "was trained on the train clips" in text
    )
    with pytest.raises(ValueError, match="no such folder"):
        predict(
            home.source,
            [home.joint.spec.id],
            csv=str(tmp_path / "no" / "told.csv"),
            results_root=home.results,
        )
    with pytest.raises(DataError, match="no clip in split 'val'"):
        predict(home.source, [home.joint.spec.id], "val", results_root=home.results)
    with pytest.raises(ValueError, match="unknown split 'tset'; known: all, train"):
        predict(home.source, [home.joint.spec.id], "tset", results_root=home.results)


def test_a_name_cannot_steer_the_terminal(home, tmp_path):
    replace(home.clips, names=("\x1b]0;title\x07\n", *home.clips.names[1:])).save(
        tmp_path / "odd.npz"
    )
    said = []
    predict(
        str(tmp_path / "odd.npz"), [home.joint.spec.id], results_root=home.results, say=said.append
    )
    assert all(line.isprintable() for line in said)


# ---- the page


@pytest.mark.parametrize(
    "which, i, persons", [("joint", 3, [1]), ("joint", 2, [1, 2]), ("padded", 2, [1, 2])]
)
def test_the_maps_of_the_page_are_those_of_every_layer(home, which, i, persons):
    record, first = getattr(home, which), home.clips.offsets[i]
    clips = replace(home.clips, frames=home.clips.frames.clone())
    clips.frames[first : first + 20, 0, 4] = 0  # not found for a while
    data = page_data(page_html(clip_page(clips, i, record)))
    assert data["persons"] == persons
    assert [(m["layer"], m["kind"]) for m in data["maps"]] == [
        (layer, k) for layer in range(1, 5) for k in ("f_R", "R")
    ]
    clip = replace(clips.select([i]), split=torch.ones(1, dtype=torch.long))
    x = next(batches(clip, "test", 1, record.spec.sampling))[0]
    tau = frame_positions(clip.lengths, record.spec.sampling, training=False)[0].double().numpy()
    for m in data["maps"]:
        stride = 1 if m["layer"] < 4 else 2
        fresh = first_time(tau[::stride])
        wanted, told = (
            attention_maps(record.model(), x, m["layer"] - 1)[m["kind"]][0, : len(persons)][
                :, fresh
            ].numpy(),
            unpack(m),
        )
        np.testing.assert_allclose(m["at"], tau[::stride][fresh], atol=1e-3)
        there = np.isfinite(told)
        early, late = np.array(m["at"]) < 19, np.array(m["at"]) > 25
        assert (
            told.shape == wanted.shape
            and there.mean() > 0.8
            and not there[0, early, 4].any()
            and there[0, late, 4].mean() > 0.8
        )
        assert (
            np.abs(told * m["mean"] - wanted)[there].max()
            <= (0.5001 * m["step"]) * m["mean"] + 1e-6
        )
        assert wanted[there].mean() == pytest.approx(m["mean"], rel=1e-4)
    if which == "padded":
        assert len(data["maps"][0]["at"]) < 40  # it went round, and the second round is not drawn


def test_the_film_is_the_clip(home):
    data = page_data(page_html(clip_page(home.clips, 2)))
    raw, film = home.clips.clip(2).numpy(), unpack(data["film"])
    there = (raw != 0).any(-1)
    assert (
        data["persons"] == [1, 2]
        and data["frames"] == len(raw)
        and (np.isfinite(film).all(-1) == there).all()
    )
    assert (
        np.abs(np.abs(film[there]) - np.abs(raw[there])).max() <= 0.51 * data["film"]["step"] + 1e-6
    )
    assert np.abs(film[there][:, 0] - raw[there][:, 0]).max() <= 0.51 * data["film"]["step"] + 1e-6
    assert data["maps"] == [] and data["edges"] == [list(e) for e in home.clips.skeleton.edges]
    long = synthetic_clips(num_clips=4, num_classes=2, frames=(3000, 3100), seed=1)
    text = page_html(clip_page(long, 0))
    assert len(page_data(text)["at"]) <= 600 and len(text) < 500_000


def test_the_prediction_stands_in_the_page(home):
    text, row = (
        page_html(clip_page(home.clips, 3, home.joint)),
        predictions(home.clips.select([3]), [home.joint]).iloc[0],
    )
    rows = re.findall(r'<tr><td>(.*?)</td><td class="n">(.*?)</td>', text)
    assert [(html.unescape(a), b) for a, b in rows] == [
        (row[f"class_{n}"], f"{row[f'probability_{n}']:.3f}") for n in (1, 2, 3)
    ]
    assert "not calibrated" in text and home.joint.spec.id in text


def test_a_network_without_cvsta_gets_no_map_and_a_word_why(home):
    text = page_html(clip_page(home.clips, 3, home.st_gcn))
    assert (
        "no attention to be drawn: st_gcn has no CVSTA" in text
        and page_data(text)["maps"] == []
        and '<canvas id="map"' not in text
        and 'class="n"' in text
    )


EVIL = (
    '</script><script>document.title="it ran"</script><img src=x onerror="document.title=1">\u2028'
)


def evil(clips):
    return replace(
        clips,
        names=(EVIL, *clips.names[1:]),
        class_names=tuple(f"{k}{EVIL}" for k in range(3)),
        meta={**clips.meta, "name": EVIL},
        skeleton=replace(clips.skeleton, name=EVIL, joints=(EVIL, *clips.skeleton.joints[1:])),
    )


def test_names_are_text_and_nothing_else(home):
    bad = evil(home.clips)
    classes = replace(
        home.joint,
        result={
            **home.joint.result,
            "class_names": list(bad.class_names),
            "coordinates": "xyz",
            "skeleton": {**home.joint.result["skeleton"], "joints": list(bad.skeleton.joints)},
        },
    )
    text = page_html(clip_page(bad, 0, classes))
    assert (
        re.findall(r"<script.*?>", text)
        == ['<script type="application/json" id="data">', "<script>"]
        and text.count("</script>") == 2
        and "<img" not in text
        and "\u2028" not in text.replace(html.escape(EVIL), "")
    )
    assert page_data(text)["name"] == EVIL and page_data(text)["joints"][0] == EVIL.replace(
        "_", " "
    )
    assert not re.search(
        r'\b(src|href)\s*=\s*["\']?\w+:|url\(|@import|fetch\(|innerHTML|document\.write|eval\(',
        text,
    ), "everything is in the file"


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
def test_a_browser_runs_the_pages_script_and_no_other(home, tmp_path):
    show(
        home.source, home.joint.spec.id, "3", str(tmp_path / "good.html"), results_root=home.results
    )
    bad = page_html(clip_page(evil(home.clips), 0)).replace(
        "<main>", "<main><script>document.title='it ran'</script><p onclick=1></p>"
    )  # as if escaping had failed
    (tmp_path / "bad.html").write_text(bad)

    def dom(name):
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=1500",
            "--dump-dom",
            (tmp_path / name).as_uri(),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=100).stdout

    m = page_data((tmp_path / "good.html").read_text())
    shown = next(q for q in m["maps"] if q["layer"] == m["layer"] and q["kind"] == "f_R")
    order = np.nanmean(unpack(shown)[0], 0)
    top = ", ".join(f"{m['joints'][v]} {order[v]:.2f}" for v in np.argsort(-order)[:3])
    good = dom("good.html")
    said = re.search(r'<p id="whole">(.*?)</p>', good)[1]
    assert re.search(r'id="layersaid"[^>]*>B3 of 4<', good)
    assert [
        w.rsplit(" ", 1)[1]
        for w in said.removeprefix("Over the clip: ").removesuffix(" times the mean.").split(", ")
    ] == [w.rsplit(" ", 1)[1] for w in top.split(", ")]
    assert "it ran" not in re.search(r"<title>(.*?)</title>", dom("bad.html"), re.S)[1].replace(
        html.escape(EVIL, quote=False), ""
    )


def test_a_clip_is_chosen_by_name_or_number(home, tmp_path, monkeypatch):
    assert [pick_clip(home.clips, w) for w in ("", "7", home.clips.names[2])] == [0, 7, 2]
    with pytest.raises(DataError, match="number 0..23"):
        pick_clip(home.clips, "24")
    monkeypatch.chdir(tmp_path)
    odd = replace(home.clips, names=("../../a/b c", *home.clips.names[1:]))
    odd.save(tmp_path / "odd.npz")
    assert str(show("odd.npz")) == "a_b_c.html" and (tmp_path / "a_b_c.html").exists()
    assert (
        page_data(show("synthetic:num_clips=8,num_classes=2", out="x.html").read_text())["frames"]
        > 0
    )
    with pytest.raises(ValueError, match="is a folder"):
        show("odd.npz", out=str(tmp_path))
    with pytest.raises(ValueError, match="layer 5 asked of 4"):
        show(home.source, home.joint.spec.id, layer=5, out="x.html", results_root=home.results)
