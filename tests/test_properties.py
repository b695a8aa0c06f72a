"""Properties that hold for whatever hypothesis thinks of: what is saved comes back, and damaged
files are refused or read, with no third way.

HYPOTHESIS_PROFILE=long looks ten times as far as the usual run, which is the same every time.
"""

import json
import os
import pickle
import string
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import malformed
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdr_repro.clips.clip_set import SPLITS, ClipSet, DataError
from mdr_repro.clips.sampling import Sampling
from mdr_repro.readers.gathering import Gathering, trimmed
from mdr_repro.readers.pickles import load_pickle
from mdr_repro.skeleton import Skeleton
from mdr_repro.training.run_spec import RunSpec, Schedule

COMMON = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("usual", max_examples=30, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=300, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))

text = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8
)  # numpy's text ends at \0
finite = st.floats(-100, 100, width=32)


@st.composite
def skeletons(draw):
    "A tree of some joints."
    joints = draw(st.lists(text, min_size=1, max_size=6, unique=True))
    edges = tuple((draw(st.integers(0, j - 1)), j) for j in range(1, len(joints)))
    return Skeleton(
        draw(text),
        tuple(joints),
        edges,
        draw(st.integers(0, len(joints) - 1)),
        draw(st.none() | st.integers(1, 5)),
        draw(st.sampled_from(["spatial", "directed", "uniform"])),
    )


@st.composite
def clip_sets(draw):
    body, letters = draw(skeletons()), draw(st.sampled_from(["xyz", "xys", "xy"]))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    n, persons, k = len(lengths), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    frames = draw(
        hnp.arrays(
            np.float32, (sum(lengths), persons, body.num_joints, len(letters)), elements=finite
        )
    )
    numbers = {
        key: torch.tensor(draw(st.lists(st.integers(-(2**40), 2**40), min_size=n, max_size=n)))
        for key in draw(st.sets(st.sampled_from(["subject", "view", "weight"])))
    }
    meta = {
        "name": draw(text),
        "coordinates": letters,
        "note": draw(st.none() | text | st.integers(-(2**60), 2**60) | st.tuples(text, finite)),
        **numbers,
    }

    def each(values):
        return torch.tensor(draw(st.lists(values, min_size=n, max_size=n)))

    return ClipSet(
        torch.from_numpy(frames),
        torch.tensor([0, *np.cumsum(lengths).tolist()]),
        each(st.integers(0, k - 1)),
        each(st.sampled_from(sorted(SPLITS.values()))),
        tuple(draw(st.lists(text, min_size=n, max_size=n, unique=True))),
        tuple(draw(st.lists(text, min_size=k, max_size=k, unique=True))),
        body,
        meta,
    )


def equal(a: ClipSet, b: ClipSet) -> bool:
    "Field for field and bit for bit, -0.0 and all."

    def bits(s):
        return [getattr(s, f).numpy().tobytes() for f in ("frames", "offsets", "labels", "split")]

    def plain(s):
        return (
            s.names,
            s.class_names,
            s.skeleton,
            {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in s.meta.items()},
        )

    return bits(a) == bits(b) and plain(a) == plain(b) and a.checksum() == b.checksum()


@given(clip_sets())
def test_clips_come_back_as_they_were_saved(clips):
    with TemporaryDirectory() as folder:
        clips.save(Path(folder) / "clips.npz")
        assert equal(clips, ClipSet.load(Path(folder) / "clips.npz"))


@given(clip_sets(), st.data())
def test_the_checksum_sees_every_number(clips, data):
    t, m, v, c = (data.draw(st.integers(0, n - 1)) for n in clips.frames.shape)
    frames = clips.frames.clone()
    frames[t, m, v, c] += 1
    if torch.equal(frames, clips.frames):
        return  # too large to grow by one
    assert replace(clips, frames=frames).checksum() != clips.checksum() == replace(clips).checksum()


@given(clip_sets(), st.data())
def test_selected_clips_are_those_clips(clips, data):
    index = data.draw(st.lists(st.integers(0, len(clips) - 1), min_size=1, max_size=5, unique=True))
    part = clips.select(index)
    for k, i in enumerate(index):
        assert torch.equal(part.clip(k), clips.clip(i)) and part.names[k] == clips.names[i]


@given(clip_sets())
def test_gathered_clips_are_the_clips(clips):
    "One after another with as many persons as each has, and out again."
    g = Gathering(clips.skeleton, clips.meta["coordinates"], clips.meta["name"])
    splits = {v: k for k, v in SPLITS.items()}
    for i, name in enumerate(clips.names):
        frames = clips.clip(i).numpy()
        seen = max(1, int((frames != 0).any((0, 2, 3)).nonzero()[0].max(initial=0)) + 1)
        g.add(name, frames[:, :seen], int(clips.labels[i]), splits[int(clips.split[i])], number=i)
    whole = g.clip_set(clips.class_names)
    assert (
        torch.equal(whole.frames, clips.frames[:, : whole.num_persons])
        and not clips.frames[:, whole.num_persons :].any()
    )
    assert (
        torch.equal(whole.offsets, clips.offsets)
        and torch.equal(whole.labels, clips.labels)
        and torch.equal(whole.split, clips.split)
    )
    assert whole.names == clips.names and whole.meta["number"].tolist() == list(range(len(clips)))


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 6), st.integers(1, 2), st.integers(1, 3), st.just(3)),
        elements=st.sampled_from([0.0, -0.0, 1.0, -1.0]),
    )
)
def test_only_empty_frames_at_the_end_are_cut(frames):
    kept = trimmed(frames)
    assert (
        not frames[len(kept) :].any()
        and (not len(kept) or kept[-1].any())
        and np.array_equal(kept, frames[: len(kept)])
    )


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 2), st.just(3), st.just(3)),
        elements=finite,
    ),
    st.data(),
)
def test_found_joints_are_never_missing_and_missing_ones_never_found(frames, data):
    there = data.draw(hnp.arrays(bool, frames.shape[:3]))
    g = Gathering(Skeleton("stick", ("a", "b", "c"), ((0, 1), (1, 2)), 0), "xyz", "one")
    g.add("clip", frames, 0, there=there)
    placed = g.clip_set(["only"]).clip(0).numpy()
    assert np.array_equal((placed != 0).any(-1), there)
    assert np.allclose(placed[there], frames[there], atol=1e-6, rtol=0)


@given(skeletons())
def test_a_skeleton_comes_back_from_json(body):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "body.json"
        path.write_text(
            json.dumps({f.name: getattr(body, f.name) for f in fields(body)}), encoding="utf-8"
        )
        assert Skeleton.from_json(path) == body


# ---- the spec of a run

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
options = st.dictionaries(
    st.text(string.ascii_lowercase, min_size=1, max_size=5), plain_values, max_size=3
)
specs = st.builds(
    RunSpec,
    data=st.text(min_size=1, max_size=20),
    data_checksum=st.text("0123456789abcdef", min_size=1, max_size=64),
    noise=st.floats(0, 0.99),
    noise_unit=st.sampled_from(["coordinates", "joints", "clips"]),
    schedule=st.builds(
        Schedule,
        epochs=st.integers(1, 500),
        batch_size=st.integers(1, 999),
        lr=st.floats(1e-6, 10),
        milestones=st.sets(st.integers(1, 99)).map(sorted).map(tuple),
        weight_decay=st.floats(0, 1),
    ),
    modality=st.sampled_from(["joint", "bone", "joint_motion", "bone_motion"]),
    backbone_options=options,
    objective_options=options,
    seed=st.integers(0, 2**31),
    holdout=st.lists(st.integers(0, 50), max_size=4).map(tuple),
    sampling=st.builds(Sampling, num_frames=st.integers(1, 300), scale=st.floats(0, 0.5)),
    precision=st.sampled_from(["fp32", "tf32", "bf16"]),
)


@given(specs)
def test_a_spec_comes_back_from_its_text(spec):
    text = spec.canonical()
    again = RunSpec.from_json(text)
    assert (
        again == spec
        and again.canonical() == text
        and again.id == spec.id
        and hash(again) == hash(spec)
        and "\n" not in text
    )
    shuffled = json.dumps(dict(reversed(json.loads(text).items())), indent=2)
    assert RunSpec.from_json(shuffled).id == spec.id, "the order of fields has a say"


@given(specs, st.data())
def test_a_spec_of_any_other_text_is_refused_in_one_sentence(spec, data):
    whole = spec.canonical()
    at = data.draw(st.integers(0, len(whole) - 1))
    spoilt = data.draw(
        st.sampled_from(
            [
                whole[:at],
                whole[:at] + whole[at + 1 :],
                whole[:at] + data.draw(st.characters(exclude_categories=("Cs",))) + whole[at + 1 :],
            ]
        )
    )
    try:
        RunSpec.from_json(spoilt).canonical()
    except ValueError as e:
        assert str(e) and "\n" not in str(e)


# ---- pickles

arrays = hnp.arrays(
    st.sampled_from(
        [np.dtype(t) for t in ("f2", "<f4", ">f4", "f8", "i1", "<i8", ">i2", "u1", "?", "<U3")]
    ),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    elements=None,
)
pickled = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text(max_size=5) | st.integers(-(2**53) + 1, 2**53 - 1), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def alike(a, b) -> bool:
    "Equal in type and value, nan being itself; arrays of the machine's own byte order."
    if isinstance(a, np.ndarray | np.generic):
        return (
            np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
            and np.shape(a) == np.shape(b)
            and np.asarray(a).dtype
            == np.asarray(b).dtype.newbyteorder(np.asarray(a).dtype.byteorder)
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b or a != a and b != b


def read_pickle(data: bytes):
    with TemporaryDirectory() as folder:
        return load_pickle(malformed.put(Path(folder) / "x.pkl", data))


@given(pickled, st.integers(0, 5))
def test_plain_values_come_out_of_a_pickle_as_they_went_in(value, protocol):
    assert alike(value, read_pickle(pickle.dumps(value, protocol)))


PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset, np.ndarray)


def plain(value, depth=0) -> bool:
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    inner = (
        [*value.keys(), *value.values()]
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, list | tuple | set | frozenset)
        else []
    )
    return type(value) in PLAIN and depth < 100 and all(plain(v, depth + 1) for v in inner)


@given(pickled, st.integers(0, 5), st.data())
def test_a_spoilt_pickle_is_refused_or_plain(value, protocol, data):
    whole = bytearray(pickle.dumps(value, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_pickle(
            bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
        )
    except DataError as e:
        assert "\n" not in str(e)
    else:
        assert plain(found)


@given(
    st.lists(
        st.sampled_from(
            [
                bytes([k])
                for k in b"().012FIJKLMNPQRSTUVXabcdeghijlopqrstu]}\x80\x81\x82\x85\x86\x87\x88\x8a"
                b"\x8c\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"
            ]
            + [
                b"\x8c\x02os\x8c\x06system\x93",
                b"cos\nsystem\n",
                b"cbuiltins\neval\n",
                b"cnumpy\nndarray\n",
                b"cnumpy.core.multiarray\n_reconstruct\n",
                b"cnumpy\ndtype\n",
                b"X\x01\x00\x00\x00a",
                b"K\x01",
                b"h\x00",
                b"q\x00",
                b"\n",
            ]
        ),
        max_size=30,
    )
)
def test_any_program_for_the_pickle_machine_is_refused_or_plain(words):
    try:
        found = read_pickle(b"\x80\x04" + b"".join(words) + b".")
    except DataError:
        return
    assert plain(found)


# ---- readers

GOOD = {
    form: write
    for form, write in {  # one good input of each form, and the file in it that is spoilt
        "own": (malformed.own, ""),
        "named": (malformed.named, ""),
        "compressed": (malformed.npz(compressed=True), ""),
        "fsd10 arrays": (malformed.FSD, malformed.NPY),
        "fsd10 labels": (malformed.FSD, malformed.PKL),
        "pyskl": (malformed.PYSKL, ""),
        "ntu": (malformed.NTU, malformed.FILE),
        "ntu arrays": (malformed.ctr(), ""),
        "pose json": (malformed.POSES, malformed.POSE),
        "coco": (malformed.coco(), "jump/b.json"),
        "pose table": (malformed.poses(table=malformed.TABLE), "labels.csv"),
        "nw_ucla": (malformed.UCLA, malformed.JFILE),
        "kinder_gator": (malformed.GATOR, malformed.KFILE),
        "penn_action": (malformed.PENN, malformed.MFILE),
        "penn_action unpacked": (malformed.penn(packed=False), malformed.MFILE),
        "utd_mhad": (malformed.utd(packed=False), malformed.UFILE),
    }.items()
}


@pytest.mark.parametrize("form", GOOD)
def test_a_damaged_file_is_refused_or_read(form, tmp_path):
    """Bytes exchanged, cut off, taken out or put in: clips or a DataError of one line that begins
    with the path, and nothing else."""
    write, inner = GOOD[form]
    path = write(tmp_path)
    file = path / inner if inner else path
    good = file.read_bytes()
    clips = ClipSet.load(path)
    assert len(clips) >= 3

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "byte", "cut", "drop", "insert", "swap"]),
                st.integers(0, len(good) - 1) | st.integers(0, min(300, len(good) - 1)),
                st.integers(0, 255),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def damaged(edits):
        data = bytearray(good)
        for kind, at, value in edits:
            at = min(at, max(len(data) - 1, 0))
            if not data:
                break
            if kind == "flip":
                data[at] ^= 1 << value % 8
            if kind == "byte":
                data[at] = value
            if kind == "cut":
                del data[at:]
            if kind == "drop":
                del data[at : at + value]
            if kind == "insert":
                data[at:at] = bytes([value])
            if kind == "swap":
                data[at : at + 8] = data[at : at + 8][::-1]
        file.write_bytes(data)
        try:
            found = ClipSet.load(path)
        except DataError as e:
            assert str(e).startswith(f"{path}: ") and "\n" not in str(e)
        else:
            assert isinstance(found, ClipSet) and torch.isfinite(found.frames).all()

    damaged()
