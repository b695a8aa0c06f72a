"Synthetic clips and sources, in settings that their notebooks do not show."

import inspect
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch

from mdr_repro.clips import sources
from mdr_repro.clips.clip_set import SPLITS, ClipSet, DataError
from mdr_repro.clips.sources import open_clips, source_checksum
from mdr_repro.clips.synthetic_clips import (
    attributes,
    check_synthetic_options,
    motion_class_names,
    motion_classes,
    synthetic_clips,
)
from mdr_repro.skeleton import Skeleton, get_skeleton

SKELETONS = [
    "coco17",
    "body25",
    "ntu25",
    "kinect20",
    "penn13",
    "coco17_released",
    "body25_released",
    "ntu25_released",
]
CLEAN = dict(jitter=0.0, dropped=0.0, pitch=0.0)
# three joints in a frame of three clips, of SYNTHETIC_VERSION 2
EXPECTED = [
    [[-0.00666, -0.77221, 6.10839], [0.34058, -0.39777, 6.40711], [0.0373, -1.64506, 5.8542]],
    [[-0.04753, -0.51413, 7.31848], [-0.16687, -0.38941, 7.81802], [0.06399, -1.01413, 7.54878]],
    [[0.03114, 0.22493, 7.24257], [-0.02374, 1.15955, 7.33089], [0.11107, -0.70701, 7.25038]],
]


def truth(clips, key):
    return clips.meta[key].double().numpy()


# every class, whatever its number


def test_every_class_has_a_neighbour_and_no_twin():
    classes = motion_classes(312)
    assert len({*map(tuple, classes)}) == len(set(motion_class_names(312))) == 312
    assert all(
        0 <= value < len(values)
        for row in classes
        for value, values in zip(row, attributes.values())
    )
    assert ((classes[1:] != classes[:-1]).sum(1) == 1).all()


@pytest.mark.parametrize("num_classes", [2, 10, 40, 99])
def test_ten_to_ninety_nine_classes(num_classes):
    clips = synthetic_clips(3 * num_classes, num_classes, frames=(50, 60))
    assert clips.labels.bincount().tolist() == [3] * num_classes
    for split in ("train", "test"):
        assert set(clips.labels[clips.indices(split)].tolist()) == set(range(num_classes))
    train, test = (
        set(clips.meta["subject"][clips.indices(split)].tolist()) for split in ("train", "test")
    )
    assert train and test and not train & test


@pytest.mark.parametrize(
    "num_clips, subjects, fraction, tested",
    [(400, 20, 0.3, 6), (200, 20, 0.01, 1), (200, 20, 0.99, 19), (24, 20, 0.5, 1)],
)
def test_subjects_are_shared_out(num_clips, subjects, fraction, tested):
    clips = synthetic_clips(
        num_clips, 10, num_subjects=subjects, test_fraction=fraction, frames=(50, 50)
    )
    assert len(set(clips.meta["subject"][clips.split == SPLITS["test"]].tolist())) == tested
    counts = clips.labels.bincount()
    assert counts.max() - counts.min() <= 1


# every skeleton, in 2-D and 3-D, one person or two


@pytest.mark.parametrize("skeleton, dims, persons", list(product(SKELETONS, (2, 3), (1, 2))))
def test_every_skeleton(skeleton, dims, persons):
    clips = synthetic_clips(20, 5, skeleton, dims, persons, frames=(50, 70))
    assert (
        clips.frames.shape[1:] == (persons, get_skeleton(skeleton).num_joints, 3)
        and clips.frames.dtype == torch.float32
    )
    assert (
        clips.skeleton == get_skeleton(skeleton)
        and clips.meta["coordinates"] == {2: "xys", 3: "xyz"}[dims]
    )
    missing = (clips.frames == 0).all(-1)
    assert 0 < missing[:, 0].float().mean() < 0.05
    if dims == 2:
        assert (
            clips.frames[..., :2].abs().max() < 1.05
            and ((clips.frames[..., 2] >= 0.4) & (clips.frames[..., 2] <= 1))[~missing].all()
        )
    if persons == 2:
        alone = torch.stack(
            [missing[a:b, 1].all() for a, b in zip(clips.offsets, clips.offsets[1:])]
        )
        assert 4 <= alone.sum() <= 16
    twin = skeleton.removesuffix("_released")
    if twin != skeleton:
        assert torch.equal(
            clips.frames, synthetic_clips(20, 5, twin, dims, persons, frames=(50, 70)).frames
        )  # another graph over the same joints


def test_joints_go_by_name():
    shuffled = Skeleton("mine", ("right_wrist", "head", "hip_center"), [(2, 1), (2, 0)], 2)
    mine, kinect = (
        synthetic_clips(20, 5, shuffled, **CLEAN, frames=(50, 50)),
        synthetic_clips(20, 5, "kinect20", **CLEAN, frames=(50, 50)),
    )
    assert torch.equal(
        mine.frames, kinect.frames[:, :, [kinect.skeleton.joints.index(j) for j in shuffled.joints]]
    )
    with pytest.raises(ValueError, match="no body part for joint 'tail'"):
        synthetic_clips(20, 5, Skeleton("dog", ("head", "tail"), [(0, 1)], 0))


def test_the_picture_shows_what_the_camera_sees():
    options = dict(frames=(50, 80), jitter=0.0, dropped=0.0, seed=3)
    seen, picture = (
        synthetic_clips(20, 5, dims=3, **options),
        synthetic_clips(20, 5, dims=2, **options),
    )
    for i in range(20):
        (x, y, z), (right, down, _) = (
            seen.clip(i)[:, 0].double().unbind(-1),
            picture.clip(i)[:, 0].double().unbind(-1),
        )
        assert (z > 2).all()
        zoom = (right * -z / x)[x.abs() > 0.1]
        assert (zoom / zoom.mean() - 1).abs().max() < 1e-4 and torch.allclose(
            down, -y / z * zoom.mean(), atol=1e-5
        )


# the truth, under every nuisance that leaves it measurable


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(mirrored=1.0),
        dict(follow=0.0, seed=5),
        dict(variation=0.0, seed=6),
        dict(num_persons=2, seed=7),
    ],
    ids=str,
)
def test_the_hips_turn_as_often_as_the_class_says(options):
    clips = synthetic_clips(198, 99, "ntu25", **CLEAN, **options)
    left, right = (clips.skeleton.joints.index(f"{side}_hip") for side in ("left", "right"))
    wanted = truth(clips, "turns") * (1 - 2 * truth(clips, "to_the_right"))
    for i in range(len(clips)):
        across = (clips.clip(i)[:, 0, left] - clips.clip(i)[:, 0, right]).double().numpy()
        angle = np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))
        start, end = np.interp(
            [truth(clips, "take_off")[i], truth(clips, "landing")[i]], np.arange(len(angle)), angle
        )
        assert abs((end - start) / (2 * np.pi) - wanted[i]) < 0.06
    assert options.get("mirrored") != 1.0 or (wanted < 0).all()


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.0])
def test_bones_ground_and_speed(variation):
    rigid = synthetic_clips(150, 99 // 2, "ntu25", variation=variation, **CLEAN)
    fps = truth(rigid, "fps")
    for i in range(len(rigid)):
        x = rigid.clip(i)[:, 0].double()
        bones = torch.stack([(x[:, a] - x[:, b]).norm(dim=-1) for a, b in rigid.skeleton.edges])
        assert (bones.amax(1) - bones.amin(1)).max() < 2e-5 and bones.min() > 0.01
        assert (x.diff(dim=0).norm(dim=-1) * fps[i]).max() < 30
    feet = synthetic_clips(150, 99 // 2, "body25", variation=variation, **CLEAN)
    soles = [k for k, j in enumerate(feet.skeleton.joints) if "toe" in j or "heel" in j]
    for i in range(len(feet)):
        lowest, t = feet.clip(i)[:, 0, soles, 1].amin(1) + 1, torch.arange(int(feet.lengths[i]))
        ground = (t < feet.meta["take_off"][i]) | (t > feet.meta["landing"][i])
        assert lowest[ground].abs().max() < 1e-5 and lowest.min() > -1e-5


def test_a_curve_and_an_entry_can_be_seen():
    "Travel, followed by no camera: which way it bends, and whether the body looks along it."
    clips = synthetic_clips(297, 99, "ntu25", follow=0.0, mirrored=0.5, **CLEAN)
    classes = motion_classes(99)[clips.labels]
    base, left, right = (
        clips.skeleton.joints.index(j) for j in ("spine_base", "left_hip", "right_hip")
    )
    for i in range(len(clips)):
        x, start = clips.clip(i)[:, 0].double().numpy(), int(clips.meta["take_off"][i])
        way = x[1:start, base][:, [0, 2]] - x[: start - 1, base][:, [0, 2]]
        travel = np.unwrap(np.arctan2(way[:, 0], way[:, 1]))
        sense = 1 - 2 * float(clips.meta["to_the_right"][i])
        assert ((travel[-1] - travel[0]) * sense > 0) == (classes[i, 6] == 0), (
            "with the turn, or against it"
        )
        across = x[start - 1, left] - x[start - 1, right]
        ahead = np.array([-across[2], across[0]]) @ way[-1]
        assert (ahead > 0) == (classes[i, 3] == 1), "forward, or backward"


# again


def test_the_same_clips_in_another_process_with_another_number_of_threads(tmp_path):
    code = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[1])); from"
        " mdr_repro.clips.synthetic_clips import synthetic_clips; print(synthetic_clips(130, 10,"
        " num_persons=2, seed=9).checksum())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, threads],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for threads in "12"
    }
    assert said == {synthetic_clips(130, 10, num_persons=2, seed=9).checksum() + "\n"}


@pytest.mark.parametrize("options", [dict(), dict(num_persons=2, dims=2)], ids=str)
def test_more_clips_add_to_fewer(options):
    few, many = synthetic_clips(200, 10, **options), synthetic_clips(270, 10, **options)
    assert (
        torch.equal(few.frames, many.frames[: len(few.frames)])
        and torch.equal(few.labels, many.labels[:200])
        and torch.equal(few.split, many.split[:200])
    )


def test_seeds_change_the_clips_and_nothing_else():
    a, b = synthetic_clips(40, 10, seed=0), synthetic_clips(40, 10, seed=1)
    assert (
        a.class_names == b.class_names
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.split, b.split)
    )
    assert not torch.equal(a.lengths, b.lengths)


def test_a_change_of_the_clips_is_noticed():
    """If this fails, clips of the same options have changed: raise SYNTHETIC_VERSION, then write
    down the new positions."""
    clips = synthetic_clips(20, 10, "ntu25", num_persons=2, seed=11)
    chosen = clips.frames[clips.offsets[[0, 7, 19]] + 30][:, 0, [0, 7, 15]]
    expected = torch.tensor(EXPECTED)
    assert torch.allclose(chosen, expected, atol=1e-4), chosen


def test_clips_are_saved_and_loaded_whole(tmp_path):
    clips = synthetic_clips(20, 10, dims=2)
    clips.save(tmp_path / "jumps.npz")
    again = ClipSet.load(tmp_path / "jumps.npz")
    assert again.checksum() == clips.checksum() and torch.equal(
        again.meta["take_off"], clips.meta["take_off"]
    )


# options and sources


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(num_clips=19), "num_clips is 19; give at least 20"),
        (dict(dims=4), "dims is 4"),
        (dict(num_persons=3), "num_persons is 3"),
        (dict(num_persons=0), "num_persons is 0"),
        (dict(frames=(600, 50)), "frames"),
        (dict(frames=(47, 600)), "at least 48"),
        (dict(test_fraction=0.0), "test_fraction"),
        (dict(test_fraction=1.0), "test_fraction"),
        (dict(num_subjects=1), "num_subjects"),
        (dict(dropped=1.5), "dropped is 1.5"),
        (dict(jitter=float("nan")), "jitter is nan"),
        (dict(variation=2.0), "variation is 2.0; give 0 to 1"),
        (dict(pitch=1.0), "pitch is 1.0"),
        (dict(partner=-0.1), "partner is -0.1; give a share"),
        (dict(roam=2.0), "roam is 2.0"),
        (dict(apart=0), "apart is 0"),
        (dict(seed=-1), "seed is -1"),
        (dict(num_classes=1), "1 synthetic classes"),
        (dict(num_classes=313, num_clips=999), "2 to 312"),
        (dict(skeleton="coco"), "known: coco17"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=sentence) as e:
        synthetic_clips(**options)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_a_partner_is_there_in_that_share_of_the_clips_and_moves_nobody_else(share):
    options = dict(
        num_clips=80, num_classes=4, skeleton="ntu25", num_persons=2, dropped=0.0, frames=(50, 60)
    )
    clips, usual = synthetic_clips(**options, partner=share), synthetic_clips(**options)
    there = np.array([bool(clips.clip(i)[:, 1].abs().sum() > 0) for i in range(80)])
    assert abs(there.mean() - share) < 4 * np.sqrt(max(share * (1 - share), 1e-9) / 80) + 1e-9
    assert torch.equal(clips.labels, usual.labels) and torch.equal(clips.offsets, usual.offsets)


@pytest.mark.parametrize("apart, least", [(1, 1), (13, 4)])
def test_classes_further_apart_differ_in_more_attributes(apart, least):
    clips = synthetic_clips(8, 4, apart=apart, frames=(50, 60))
    rows = motion_classes(4 * apart)[::apart]
    assert min((a != b).sum() for i, a in enumerate(rows) for b in rows[:i]) == least
    assert clips.class_names == motion_class_names(4 * apart)[::apart]


def test_every_option_is_checked():
    assert set(inspect.signature(check_synthetic_options).parameters) == set(
        inspect.signature(synthetic_clips).parameters
    )


@pytest.mark.parametrize("option", list(inspect.signature(synthetic_clips).parameters))
def test_every_option_can_be_written_in_a_source_and_counts_in_its_checksum(option):
    other = dict(
        num_clips=30,
        num_classes=5,
        skeleton="ntu25",
        dims=2,
        num_persons=2,
        frames="60-90",
        test_fraction=0.5,
        num_subjects=3,
        variation=0.5,
        jitter=0.02,
        dropped=0.1,
        mirrored=0.25,
        partner=0.9,
        roam=0.5,
        apart=7,
        yaw=1.0,
        pitch=0.1,
        follow=0.5,
        seed=3,
    )[option]
    plain = dict(num_clips=24, num_classes=4) | (
        dict(num_persons=2) if option in ("partner", "roam") else {}
    )
    plain, changed = (
        "synthetic:" + ",".join(f"{k}={v}" for k, v in options.items())
        for options in (plain, plain | {option: other})
    )
    assert source_checksum(changed) != source_checksum(plain)
    a, b = open_clips(changed), open_clips(plain)
    same = a.frames.shape == b.frames.shape and torch.equal(a.frames, b.frames)
    assert not same or not torch.equal(a.split, b.split) or a.class_names != b.class_names


def test_a_new_version_of_the_generator_is_another_checksum(monkeypatch):
    before = source_checksum("synthetic:seed=4")
    monkeypatch.setattr(sources, "SYNTHETIC_VERSION", sources.SYNTHETIC_VERSION + 1)
    assert source_checksum("synthetic:seed=4") != before


def test_a_checksum_does_not_make_the_clips(monkeypatch):
    monkeypatch.setattr(sources, "_make", lambda options: pytest.fail("clips were made"))
    assert len(source_checksum("synthetic:num_clips=100000,num_classes=99")) == 64


def test_a_folder_is_a_source_too(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin").write_bytes(b"1")
    first = source_checksum("set", tmp_path)
    assert source_checksum("set", tmp_path) == source_checksum(str(tmp_path / "set")) == first
    (tmp_path / "set" / "a.bin").write_bytes(b"22")
    assert source_checksum("set", tmp_path) != first
    with pytest.raises(DataError, match="no known form of clips"):
        open_clips("set", tmp_path)


def test_the_working_directory_comes_before_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir(), (tmp_path / "data").mkdir()
    synthetic_clips(20, 10, seed=1).save(tmp_path / "data" / "jumps.npz")
    monkeypatch.chdir(tmp_path / "here")
    assert open_clips("jumps.npz", tmp_path / "data").num_classes == 10
    synthetic_clips(20, 5, seed=2).save(tmp_path / "here" / "jumps.npz")
    assert open_clips("jumps.npz", tmp_path / "data").num_classes == 5
