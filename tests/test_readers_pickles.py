"Pickles, FSD-10 and PYSKL: files of every layout come back exactly, spoilt ones give one sentence."

import os
import pickle
import pickletools
import tracemalloc

import numpy as np
import pytest

from mdr_repro.clips.clip_set import ClipSet, DataError
from mdr_repro.clips.sources import open_clips
from mdr_repro.readers import fsd10, pyskl  # noqa: F401  they register their readers
from mdr_repro.readers.pickles import load_pickle
from mdr_repro.study.profiles import get_profile

RNG = np.random.default_rng(7)


def saved(folder, data, name="value.pkl"):
    path = folder / name
    path.write_bytes(data)
    return path


def alike(a, b):
    "Equal, arrays by type, shape and content."
    if isinstance(b, np.ndarray):
        return (
            isinstance(a, np.ndarray)
            and a.dtype == b.dtype.newbyteorder("=")
            and a.shape == b.shape
            and a.tobytes() == b.astype(a.dtype).tobytes()
        )
    if isinstance(b, dict):
        return isinstance(a, dict) and list(a) == list(b) and all(alike(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and a == b


def plain(depth, rng):
    "A random plain value."
    kinds = ["int", "float", "text", "bytes", "none", "bool"] + [
        "list",
        "tuple",
        "dict",
        "array",
    ] * bool(depth)
    kind = kinds[rng.integers(len(kinds))]
    if kind == "int":
        return (
            int(rng.integers(-(2**62), 2**62))
            << int(rng.integers(0, 60))
            >> int(rng.integers(0, 120))
        )
    if kind == "float":
        return float(rng.normal() * 10.0 ** rng.integers(-300, 300))
    if kind == "text":
        return "".join(
            map(chr, rng.choice([10, 39, 92, 65, 233, 0x4E00, 0x1F600], rng.integers(0, 6)))
        )
    if kind == "bytes":
        return rng.bytes(rng.integers(0, 300))
    if kind in ("none", "bool"):
        return None if kind == "none" else bool(rng.integers(2))
    if kind == "array":
        return np.asarray(
            rng.integers(0, 100, rng.integers(0, 4, rng.integers(0, 4))),
            rng.choice(["f2", ">f4", "f8", "u1", "i8", "?", "U3"]),
            order=rng.choice(["C", "F"]),
        )
    inside = [plain(depth - 1, rng) for _ in range(rng.integers(0, 5))]
    return (
        inside
        if kind == "list"
        else tuple(inside)
        if kind == "tuple"
        else dict(zip("abcde", inside))
    )


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back_as_pickle_reads_them(tmp_path, protocol):
    for seed in range(60):
        value = plain(4, np.random.default_rng(seed))
        data = pickle.dumps(value, protocol)
        read = load_pickle(saved(tmp_path, data))
        assert alike(read, value) and alike(read, pickle.loads(data)), seed


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_ends_early_is_never_taken(tmp_path, protocol):
    data = pickle.dumps(
        {
            "label": [1, 300, 2**40, 1.5],
            "keypoint": np.zeros((2, 3), "f2"),
            "name": ("a", b"b", None),
        },
        protocol,
    )
    for end in range(len(data)):
        with pytest.raises(DataError):
            load_pickle(saved(tmp_path, data[:end]))


def test_commands_in_any_order_give_a_value_or_one_error(tmp_path):
    "Programs of random commands, which no pickler would write."
    rng, codes, seen = (
        np.random.default_rng(3),
        [o.code.encode("latin-1") for o in pickletools.opcodes],
        set(),
    )
    for _ in range(4000):
        parts = [
            codes[k] + (rng.bytes(rng.integers(0, 9)) if rng.random() < 0.5 else b"")
            for k in rng.integers(0, len(codes), rng.integers(1, 30))
        ]
        try:
            load_pickle(saved(tmp_path, b"]}(K\x01\x8c\x01a" + b"".join(parts) + b"."))
        except DataError as e:
            seen.add(str(e)[:30])
        else:
            seen.add("value")
    assert "value" in seen and len(seen) > 4


class Code:
    "Pickled, it is a call."

    def __init__(self, *call):
        self.call = call[0], call[1:]

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["itself", "list", "key", "array", "state", "unused"])
def test_no_code_runs(tmp_path, protocol, place):
    code = Code(os.mkdir, str(tmp_path / "made"))
    value = {
        "itself": code,
        "list": [1, [code]],
        "key": {"a": {Code(os.mkdir, str(tmp_path / "made")): 1}},
        "array": np.array([code, 1], object),
        "state": Code(np.ndarray, code),
        "unused": {"annotations": [], "notes": code},
    }[place]
    with pytest.raises(DataError, match="never run"):
        load_pickle(saved(tmp_path, pickle.dumps(value, protocol)))
    assert not (tmp_path / "made").exists()
    if place != "key":
        return
    pickle.loads(pickle.dumps(code, protocol))  # the trap works
    assert (tmp_path / "made").exists()


# ---- FSD-10


def skaters(n, seed=0):
    "Clips [T, 25, 3] with missing joints."
    rng, clips = np.random.default_rng(seed), []
    for _ in range(n):
        clip = rng.uniform(-1, 1, (rng.integers(2, 118), 25, 3)).astype(np.float32)
        clip[..., 2] = rng.uniform(0.05, 1, clip.shape[:2])
        clip[:-1][rng.random((len(clip) - 1, 25)) < 0.2] = 0
        clips.append(clip)
    return clips


def write_fsd(
    folder, parts, frames=130, dtype=np.float32, protocol=4, kind=list, ending="_25", order="C"
):
    folder.mkdir(parents=True, exist_ok=True)
    for part, (clips, names, labels) in parts.items():
        array = np.zeros((len(clips), 3, frames, 25, 1), dtype, order)
        for i, clip in enumerate(clips):
            array[i, :, : len(clip), :, 0] = clip.transpose(2, 0, 1)
        np.save(folder / f"{part}_data{ending}.npy", array)
        saved(
            folder, pickle.dumps((kind(names), kind(labels)), protocol), f"{part}_label{ending}.pkl"
        )
    return folder


def skating(train=5, test=3, other="val"):
    names, labels = (
        [f"skate_{k}" for k in range(train + test)],
        [k % 3 for k in range(train + test)],
    )
    clips = skaters(train + test)
    return {
        "train": (clips[:train], names[:train], labels[:train]),
        other: (clips[train:], names[train:], labels[train:]),
    }


@pytest.mark.parametrize(
    "frames, dtype, protocol, kind, ending, order",
    [
        (1500, "f4", 4, list, "_25", "C"),
        (2500, "f8", 3, tuple, "_25", "C"),
        (120, ">f4", 0, np.array, "", "C"),
        (120, "f4", 2, list, "_joint", "F"),
        (118, "f8", 5, np.array, "_25", "C"),
    ],
)
def test_every_layout_of_fsd10_comes_back_exactly(
    tmp_path, frames, dtype, protocol, kind, ending, order
):
    parts = skating()
    clips = ClipSet.load(
        write_fsd(tmp_path / "FSD-10", parts, frames, dtype, protocol, kind, ending, order)
    )
    told = [clip for part in parts.values() for clip in zip(*part)]
    assert (
        clips.names == tuple(name for _, name, _ in told)
        and clips.labels.tolist() == [label for _, _, label in told]
        and clips.split.tolist() == [0] * 5 + [1] * 3
    )
    assert (
        clips.skeleton.name == "body25"
        and clips.meta["coordinates"] == "xys"
        and clips.num_persons == 1
    )
    for i, (frames, _, _) in enumerate(told):
        np.testing.assert_array_equal(clips.clip(i)[:, 0].numpy(), frames)


def test_val_keeps_its_name_beside_test(tmp_path):
    parts = skating(4, 4) | {"test": (skaters(2, 9), ["x", "y"], [0, 1])}
    assert (
        ClipSet.load(write_fsd(tmp_path / "s", parts)).split.tolist() == [0] * 4 + [2] * 4 + [1] * 2
    )


def test_one_array_with_its_labels_beside_it(tmp_path):
    folder = write_fsd(tmp_path / "s", skating())
    assert len(ClipSet.load(folder / "train_data_25.npy")) == 5
    for old, new in (("train_data_25.npy", "mine.npy"), ("train_label_25.pkl", "mine.pkl")):
        (folder / old).rename(tmp_path / new)
    assert ClipSet.load(tmp_path / "mine.npy").split.tolist() == [0] * 5
    (tmp_path / "mine.pkl").unlink()
    with pytest.raises(DataError, match="mine.pkl is missing"):
        ClipSet.load(tmp_path / "mine.npy")


def test_frames_that_sum_below_zero_are_kept_and_gaps_too(tmp_path):
    clip = np.full((9, 25, 3), -0.9, np.float32)
    clip[..., 2], clip[3:5] = 0.1, 0
    clips = ClipSet.load(
        write_fsd(tmp_path / "s", {"train": ([clip, -clip], ["low", "high"], [0, 1])})
    )
    assert clips.lengths.tolist() == [9, 9] and clips.clip(0)[:, 0].numpy().sum() < 0
    np.testing.assert_array_equal(clips.clip(0)[:, 0].numpy(), clip)


def test_a_clip_without_scores_is_told_by_its_positions(tmp_path):
    clip = skaters(1, 4)[0]
    clip[..., 2] = 0
    np.testing.assert_array_equal(
        ClipSet.load(write_fsd(tmp_path / "s", {"train": ([clip, clip], ["a", "b"], [0, 1])}))
        .clip(0)[:, 0]
        .numpy(),
        clip,
    )


def test_padding_is_not_read_into_memory(tmp_path):
    array = np.lib.format.open_memmap(
        tmp_path / "clips.npy", "w+", np.float32, (40, 3, 6000, 25, 1)
    )
    array[:, :, :20] = 0.5
    array.flush()
    saved(
        tmp_path,
        pickle.dumps(([f"c{k}" for k in range(40)], [k % 2 for k in range(40)])),
        "clips.pkl",
    )
    tracemalloc.start()
    clips = ClipSet.load(tmp_path / "clips.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        clips.lengths.tolist() == [20] * 40 and peak < (tmp_path / "clips.npy").stat().st_size / 10
    )


# ---- PYSKL


def note(
    name,
    frames=6,
    persons=1,
    joints=17,
    dims=2,
    dtype=np.float16,
    scored=True,
    size=(480, 640),
    label=0,
    **fields,
):
    "An annotation whose numbers are exact in float16 and after scaling by this size."
    keypoint = RNG.integers(1, 400, (persons, frames, joints, dims)).astype(dtype)
    planar = {"img_shape": size, "original_shape": size} if dims == 2 and size else {}
    if dims == 2 and scored:
        planar["keypoint_score"] = (RNG.integers(1, 64, keypoint.shape[:3]) / 64).astype(dtype)
    return {
        "frame_dir": name,
        "label": label,
        "total_frames": frames,
        "keypoint": keypoint,
        **planar,
        **fields,
    }


def expected(note):
    "Frames [T, M, V, C], from the documentation's formula, number by number."
    keypoint, score = note["keypoint"].astype(np.float64), note.get("keypoint_score")
    m, t, v, c = keypoint.shape
    out = np.zeros((t, m, v, c + (score is not None)))
    for i, k, j in np.ndindex(m, t, v):
        p = keypoint[i, k, j]
        if c == 2 and "img_shape" in note:
            p = [
                (p[0] - note["img_shape"][1] / 2) / (note["img_shape"][1] / 2),
                (p[1] - note["img_shape"][0] / 2) / (note["img_shape"][0] / 2),
            ]
        if score is None or score[i, k, j] > 0.01:
            out[k, i, j] = [*p] if score is None else [*p, score[i, k, j]]
    return out


def write_pyskl(path, notes, split=None, protocol=4):
    return saved(
        path.parent,
        pickle.dumps(notes if split is None else {"split": split, "annotations": notes}, protocol),
        path.name,
    )


LAYOUTS = {
    "gym": dict(),
    "float32": dict(dtype=np.float32),
    "float64": dict(dtype=np.float64),
    "three persons": dict(persons=3),
    "no scores": dict(scored=False),
    "no size": dict(size=None),
    "another size": dict(size=(512, 256)),
    "3-D": dict(joints=25, dims=3),
    "two bodies in 3-D": dict(joints=25, dims=3, persons=2, dtype=np.float32),
    "ntu in the picture": dict(joints=25),
    "more fields": dict(bbox=np.zeros(4), valid={0.5: 3}),
    "size as a list": dict(size=[480, 640]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_pyskl_comes_back(tmp_path, layout, protocol):
    notes = [note(f"c{k}", 3 + k, label=k % 4, **LAYOUTS[layout]) for k in range(8)]
    clips = ClipSet.load(
        write_pyskl(
            tmp_path / "set.pkl",
            notes,
            {"train": [f"c{k}" for k in range(6)], "val": ["c6", "c7"]},
            protocol,
        )
    )
    assert (
        clips.names == tuple(f"c{k}" for k in range(8))
        and clips.labels.tolist() == [k % 4 for k in range(8)]
        and clips.split.tolist() == [0] * 6 + [1] * 2
    )
    assert clips.meta["coordinates"] == (
        "xyz" if "3-D" in layout else "xy" if layout == "no scores" else "xys"
    )
    for i, n in enumerate(notes):
        off = np.abs(clips.clip(i).numpy() - expected(n))
        assert off.max() <= 2e-6  # the least is what a joint at exactly the middle is moved by


def test_persons_differ_from_clip_to_clip(tmp_path):
    notes = [note("one"), note("three", persons=3), note("two", persons=2)]
    clips = ClipSet.load(write_pyskl(tmp_path / "set.pkl", notes))
    assert (
        clips.num_persons == 3
        and not clips.clip(0)[:, 1:].any()
        and not clips.clip(2)[:, 2:].any()
        and bool(clips.clip(2)[:, 1].any())
    )


def test_protocols_of_one_file(tmp_path):
    names = [f"S00{1 + k}C00{1 + k % 3}P00{1 + k}R001A00{1 + k % 2}" for k in range(6)]
    split = {
        "xsub_train": names[:4],
        "xsub_val": names[4:],
        "xview_train": names[::2],
        "xview_val": names[1:4:2],
    }
    write_pyskl(
        tmp_path / "ntu.pkl",
        [note(n, joints=25, dims=3, label=k % 2) for k, n in enumerate(names)],
        split,
    )
    clips, view = open_clips("ntu.pkl", tmp_path), open_clips("ntu.pkl#split=xview", tmp_path)
    assert clips.split.tolist() == [0, 0, 0, 0, 1, 1] and clips.meta["subject"].tolist() == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert view.names == tuple(names[:5]) and view.split.tolist() == [0, 1, 0, 1, 0]


def test_a_clip_in_no_list_is_left_out_and_one_outside_the_default_is_not_tested_on(tmp_path):
    notes = [note(n) for n in "abcd"]
    assert ClipSet.load(
        write_pyskl(tmp_path / "s.pkl", notes, {"train": ["a"], "val": ["c"]})
    ).names == ("a", "c")
    clips = ClipSet.load(
        write_pyskl(
            tmp_path / "s.pkl",
            notes,
            {"train1": ["a"], "test1": ["c"], "train2": ["b"], "test2": ["a", "c"]},
        )
    )
    assert (
        clips.names == ("a", "b", "c")
        and clips.split.tolist() == [0, 2, 1]
        and clips.meta["split_2"].tolist() == [1, 0, 1]
    )


def test_bare_lists_and_names_that_are_missing(tmp_path):
    notes = [note("x", 3 + k, label=k % 2) for k in range(5)]
    for n in notes:
        del n["frame_dir"]
    (tmp_path / "gym").mkdir()
    write_pyskl(tmp_path / "gym" / "gym_train.pkl", notes[:3])
    write_pyskl(tmp_path / "gym" / "gym_val.pkl", notes[3:])
    clips = ClipSet.load(tmp_path / "gym")
    assert (
        clips.names == tuple(f"clip_{k}" for k in range(5))
        and clips.split.tolist() == [0, 0, 0, 1, 1]
        and clips.lengths.tolist() == [3, 4, 5, 6, 7]
    )
    write_pyskl(tmp_path / "gym" / "other_val.pkl", notes)
    with pytest.raises(DataError, match="several sets"):
        ClipSet.load(tmp_path / "gym")


def test_clips_are_held_once_while_they_are_read(tmp_path):
    notes = [note(f"c{k}", 400, persons=2) for k in range(100)]
    path = write_pyskl(tmp_path / "set.pkl", notes)
    size = 4 * 100 * 400 * 2 * 17 * 3
    del notes
    tracemalloc.start()
    clips = ClipSet.load(path)
    peak = tracemalloc.get_traced_memory()[1]  # numpy's part; the set itself is torch's
    tracemalloc.stop()
    assert clips.frames.numel() * 4 == size and peak < 1.25 * size


SPOILT = {
    "another joint count in one clip": (
        "'c2' has 25 joints",
        lambda d: d[2].update(note("c2", joints=25)),
    ),
    "keypoint and score disagree": (
        "'c2': keypoint_score has shape",
        lambda d: d[2].update(keypoint_score=d[2]["keypoint_score"][:, :-1]),
    ),
    "a score too many axes": (
        "'c2': keypoint_score has shape",
        lambda d: d[2].update(keypoint_score=d[2]["keypoint_score"][..., None]),
    ),
    "four coordinates": (
        "'c1': keypoint has 17 joints of 4 coordinates",
        lambda d: d[1].update(keypoint=np.zeros((1, 6, 17, 4))),
    ),
    "no persons": (
        "'c1': keypoint has no person",
        lambda d: d[1].update(
            keypoint=np.zeros((0, 6, 17, 2)), keypoint_score=np.zeros((0, 6, 17))
        ),
    ),
    "no keypoint": ("'c1': keypoint is missing", lambda d: d[1].pop("keypoint")),
    "Kinetics": ("raw_file", lambda d: (d[1].pop("keypoint"), d[1].update(raw_file="a"))),
    "a label below 0": ("'c1': label is -1", lambda d: d[1].update(label=-1)),
    "a label beyond all": ("'c1': label is 1000000000", lambda d: d[1].update(label=10**9)),
    "two labels": ("'c1': label is 'list'", lambda d: d[1].update(label=[0, 1])),
    "half a label": ("'c1': label is 0.5", lambda d: d[1].update(label=0.5)),
    "inf": (
        "'c1': frame 2, person 0, joint 3",
        lambda d: d[1]["keypoint"].__setitem__((0, 2, 3, 0), np.inf),
    ),
    "scores in some clips": (
        "'c3' has 17 joints of 2 coordinates, without keypoint_score",
        lambda d: d[3].pop("keypoint_score"),
    ),
    "a size below 0": ("'c3': img_shape", lambda d: d[3].update(img_shape=(480, -640))),
    "frames that are not there": ("'c3': total_frames is 7", lambda d: d[3].update(total_frames=7)),
    "a name twice": ("'c0' is there twice", lambda d: d[3].update(frame_dir="c0")),
    "a name that is none": (
        "annotation 3: frame_dir is a float",
        lambda d: d[3].update(frame_dir=1.5),
    ),
    "no dict": ("annotation 3 is a str", lambda d: d.__setitem__(3, "c3")),
    "empty": ("annotations are empty", lambda d: d.clear()),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_annotation_is_one_sentence(tmp_path, name):
    says, spoil = SPOILT[name]
    notes = [note(f"c{k}") for k in range(4)]
    spoil(notes)
    path = write_pyskl(tmp_path / "gym.pkl", notes)
    with pytest.raises(DataError) as e:
        ClipSet.load(path)
    assert (
        says in str(e.value) and str(e.value).startswith(f"{path}: ") and "\n" not in str(e.value)
    )


def test_an_array_that_is_there_a_thousand_times_does_not_fill_the_memory(tmp_path):
    one = note("x", 3000, 10)
    with pytest.raises(DataError, match="write each clip once"):
        ClipSet.load(
            write_pyskl(tmp_path / "gym.pkl", [{**one, "frame_dir": f"c{k}"} for k in range(1000)])
        )


def test_the_papers_files_are_found_under_the_names_that_the_profile_asks_for(tmp_path):
    slots = get_profile("paper").slots
    write_fsd(tmp_path / "FSD-10", skating())
    (tmp_path / "FineGYM").mkdir()
    write_pyskl(
        tmp_path / "FineGYM" / "gym_hrnet.pkl",
        [note(f"c{k}", label=k) for k in range(99)],
        {"train": [f"c{k}" for k in range(70)], "val": [f"c{k}" for k in range(70, 99)]},
    )
    for slot, joints, classes in (("fsd10", 25, 3), ("finegym99", 17, 99)):
        clips = open_clips(slots[slot].data, tmp_path)
        assert (clips.skeleton.num_joints, clips.num_classes, clips.meta["coordinates"]) == (
            joints,
            classes,
            "xys",
        ) and len(clips.indices("test"))
