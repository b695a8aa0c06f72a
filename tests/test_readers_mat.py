"Readers of MATLAB files: Penn Action and UTD-MHAD come back exactly, only plain arrays are read."

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from mdr_repro.clips.clip_set import ClipSet, DataError, find_reader
from mdr_repro.clips.sources import open_clips
from mdr_repro.readers import penn_action, utd_mhad
from mdr_repro.readers.conversion import PUBLIC, convert
from mdr_repro.readers.gathering import read_mat
from mdr_repro.skeleton import get_skeleton

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZES = ((360, 480), (480, 270), (333, 500))  # height, width


def shared(name):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not in the shared data folder")
    return ClipSet.load(SHARED / name)


def penn_file(clip, size, action, view, train):
    "The file of a clip [T, 13, 3]: pixels again, as the authors have them."
    (h, w), T = size, len(clip)
    half = max(size) / 2
    return {
        "action": action,
        "pose": view,
        "x": clip[..., 0] * half + w / 2,
        "y": clip[..., 1] * half + h / 2,
        "visibility": clip[..., 2].astype(np.uint8),
        "train": np.int32([[1 if train else -1]]),
        "bbox": np.zeros((T, 4)),
        "dimensions": np.float64([[h, w, T]]),
        "nframes": np.uint16([[T]]),
    }


def same(clips, truth, index, *keys):
    "Whether a set holds exactly these clips of another one."
    assert clips.names == tuple(truth.names[i] for i in index)
    for k, i in enumerate(index):
        assert torch.equal(clips.clip(k), truth.clip(i)), truth.names[i]
        assert clips.labels[k] == truth.labels[i] and clips.split[k] == truth.split[i]
        for key in keys:
            assert clips.meta[key][k] == truth.meta[key][i]
    assert (clips.class_names, clips.skeleton, clips.meta["coordinates"]) == (
        truth.class_names,
        truth.skeleton,
        truth.meta["coordinates"],
    )


def test_penn_action_comes_back_from_the_authors_layout(tmp_path):
    truth = shared("penn_action.npz")
    index = [0, 1, 2, 700, 1325, 2000, 2325]
    for n, i in enumerate(index):
        view = truth.meta["view_names"][truth.meta["view"][i]]
        content = penn_file(
            truth.clip(i)[:, 0].double().numpy(),
            SIZES[n % 3],
            truth.class_names[truth.labels[i]],
            view,
            truth.split[i] == 0,
        )
        savemat(tmp_path / f"{truth.names[i]}.mat", content, do_compression=n % 2 == 0)
    assert find_reader(tmp_path) == "penn_action"
    clips = ClipSet.load(tmp_path)
    same(clips, truth, index, "view")
    assert clips.meta["view_names"] == truth.meta["view_names"] and clips.meta["units"].startswith(
        "halves of the picture"
    )
    assert convert(str(tmp_path), tmp_path / "penn.npz").checksum() == clips.checksum()


def test_utd_mhad_comes_back_from_the_authors_layout(tmp_path):
    truth = shared("utd_mhad.npz")
    index = [0, 1, 31, 400, 860]
    for i in index:
        action, subject, repetition = (int(part[1:]) for part in truth.names[i].split("_"))
        listed = (
            truth.clip(i)[:, 0, [3, 2, 1, 0, *range(4, 20)]].double().numpy()
        )  # head, shoulder_center, spine, hip_center
        savemat(
            tmp_path / f"a{action}_s{subject}_t{repetition}_skeleton.mat",
            {"d_skel": listed.transpose(1, 2, 0)},
            do_compression=i % 2 == 0,
        )
    assert find_reader(tmp_path) == "utd_mhad"
    same(ClipSet.load(tmp_path), truth, index, "subject", "repetition")


def test_penn_action():
    clips = open_clips(str(SHARED / "penn_action.npz")) if shared("penn_action.npz") else None
    assert (len(clips), len(clips.frames), clips.num_classes, clips.dims) == (2326, 163841, 15, 2)
    assert clips.summary()["clips"].to_dict() == {"train": 1258, "test": 1068}
    assert clips.skeleton == get_skeleton("penn13") and clips.meta["coordinates"] == "xys"
    assert (
        clips.class_names == penn_action.CLASSES and clips.meta["view_names"] == penn_action.VIEWS
    )
    assert clips.frames[..., 2].unique().tolist() == [0, 1] and 1 - clips.frames[
        ..., 2
    ].mean() == pytest.approx(0.22, abs=0.01)
    unseen = clips.frames[clips.frames[..., 2] == 0][:, :2]
    assert (unseen == 0).all(1).float().mean() < 0.001, (
        "a joint that was not seen has the annotators' guess"
    )


def test_utd_mhad():
    clips = open_clips("utd_mhad.npz", SHARED) if shared("utd_mhad.npz") else None
    assert (len(clips), len(clips.frames), clips.num_classes, clips.dims) == (861, 58299, 27, 3)
    assert clips.summary()["clips"].to_dict() == {"train": 431, "test": 430}
    assert clips.skeleton == get_skeleton("kinect20") and clips.class_names == utd_mhad.CLASSES
    assert set((clips.meta["subject"][clips.indices("train")] % 2).tolist()) == {1} and set(
        (clips.meta["subject"][clips.indices("test")] % 2).tolist()
    ) == {0}
    height = dict(zip(clips.skeleton.joints, clips.frames[:, 0, :, 1].median(0).values.tolist()))
    assert (
        height["head"]
        > height["shoulder_center"]
        > height["spine"]
        > height["hip_center"]
        > height["left_knee"]
        > height["left_foot"]
    )


def test_the_new_sets_can_be_fetched():
    for name, folder in (("penn_action", "labels"), ("utd_mhad", "data/Skeleton")):
        entry = PUBLIC[name]
        assert (
            entry.inside == folder and len(entry.url.rpartition("/")[2].removesuffix(".zip")) == 40
        ), "a commit, not a branch"


# ---- MATLAB files that are not what they seem


def element(kind, content, order="<"):
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def variable(flags=6, shape=(1, 3), name=b"x", values=None, order="<"):
    data = np.arange(3, dtype=f"{order}f8").tobytes() if values is None else values
    return element(
        14,
        element(6, struct.pack(f"{order}II", flags, 0), order)
        + element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
        + element(1, name, order)
        + element(9, data, order),
        order,
    )


def mat(*variables, order="<"):
    return (
        b"MATLAB 5.0 MAT-file, by hand".ljust(124)
        + struct.pack(f"{order}H", 0x0100)
        + (b"IM" if order == "<" else b"MI")
        + b"".join(variables)
    )


def packed(content):
    z = zlib.compress(content, 9)
    return struct.pack("<II", 15, len(z)) + z


@pytest.mark.parametrize("order", "<>")
def test_both_orders_of_bytes_are_read(order, tmp_path):
    (tmp_path / "a.mat").write_bytes(mat(variable(order=order), order=order))
    assert read_mat(tmp_path / "a.mat", ["x"])["x"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    "content, sentence",
    [
        (mat(variable(flags=1)), "no plain array"),
        (mat(variable(flags=2)), "no plain array"),
        (mat(variable(flags=3)), "no plain array"),
        (mat(variable(flags=5)), "no plain array"),
        (mat(variable(flags=16)), "no plain array"),
        (mat(variable(flags=17)), "no plain array"),
        (
            mat(variable(flags=6 | 0x800)),
            "no plain array",
        ),  # cell, struct, object, sparse, function, opaque, complex
        (mat(variable(shape=(2**20, 2**30))), "claims"),
        (mat(variable(shape=(-1, 3))), "claims"),
        (mat(variable(flags=4, shape=(1, 2**31 - 1), values=b"")), "claims"),
        (mat(packed(packed(variable()))), "no array"),
        (mat(element(9, bytes(8))), "no array"),
        (mat(packed(variable(values=bytes(65 * 2**20)))), "unpacks to more than 64 MiB"),
        (mat(*[packed(variable(values=bytes(40 * 2**20)))] * 2), "unpacks to more than 64 MiB"),
        (mat(packed(variable())[:-5]), "cut off or damaged"),
        (mat(variable()[:-8]), "cut off or damaged"),
        (mat(struct.pack("<II", 14, 2**32 - 1)), "cut off or damaged"),
        (mat(element(14, b"")), "cut off or damaged"),
        (mat(variable(shape=(3, 3))), "cut off or damaged"),
        (mat(variable(name=b"y")), "holds no x"),
        (b"", "no MATLAB 5 file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "no MATLAB 5 file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", "no MATLAB 5 file; save it with -v7"),
    ],
)
def test_what_is_no_plain_array_is_refused(content, sentence, tmp_path):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        read_mat(tmp_path / "a.mat", ["x"], tmp_path)
    assert (
        str(caught.value).startswith("a.mat ")
        and "\n" not in str(caught.value)
        and ";" in str(caught.value)
    )


def test_an_array_that_nobody_asked_for_is_refused_too(tmp_path):
    file = io.BytesIO()
    savemat(file, {"x": np.zeros(3), "y": {"a": 1}})
    (tmp_path / "a.mat").write_bytes(file.getvalue())
    with pytest.raises(DataError, match="holds 'y', which is no plain array"):
        read_mat(tmp_path / "a.mat", ["x"])
