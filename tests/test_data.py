"Clips from disk to batches: spoilt files, killed processes, the real sets."

import hashlib
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mdr_repro.clips.batches import batches, make_batch, make_streams, num_batches, stream_batches
from mdr_repro.clips.clip_set import ClipSet, DataError
from mdr_repro.clips.modalities import modalities
from mdr_repro.clips.noise import AT_ZERO, add_noise
from mdr_repro.clips.sampling import Sampling, Survey, survey
from mdr_repro.models.posec3d import heatmaps
from mdr_repro.skeleton import Skeleton, get_skeleton

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
STICK = Skeleton("stick", ("hip", "spine", "head"), ((0, 1), (1, 2)), 0)


def named_arrays():
    "A small valid file of the form with named joints: 4 clips of 2, 40, 1 and 90 frames."
    frames = np.random.default_rng(0).normal(size=(133, 3, 3)).astype(np.float32)
    return {
        "keypoints": frames,
        "offsets": np.array([0, 2, 42, 43, 133]),
        "label": np.array([0, 1, 0, 1]),
        "split": np.array([0, 0, 1, 1]),
        "name": np.array(["a", "b", "c", "d"]),
        "class_names": np.array(["turn", "jump"]),
        "joint_names": np.array(STICK.joints),
        "edges": np.array(STICK.edges),
        "subject": np.array([3, 4, 5, 5]),
        "merged": np.array([0, 0, 0, 0]),
        "merged_names": np.array(["any"]),
    }


def some_clips(n=12, letters="xyz"):
    "Clips on kinect20 with two persons and missing joints."
    g = torch.Generator().manual_seed(0)
    length = torch.randint(1, 150, (n,), generator=g)
    frames = torch.randn(int(length.sum()), 2, 20, 3, generator=g)
    frames[torch.rand(frames.shape[:3], generator=g) < 0.1] = 0
    i = torch.arange(n)
    return ClipSet(
        frames,
        torch.cat([torch.zeros(1), length.cumsum(0)]).long(),
        i % 3,
        i % 2,
        tuple(f"clip {k}" for k in range(n)),
        ("a", "b", "c"),
        get_skeleton("kinect20"),
        {"name": "some", "coordinates": letters, "subject": i // 4},
    )


def same(a: ClipSet, b: ClipSet) -> bool:
    return a.checksum() == b.checksum() and torch.equal(a.frames, b.frames)


# ---- spoilt files: one test a kind, judged by the sentence


def change(key, value):
    def edit(arrays):
        arrays[key] = value(arrays[key]) if callable(value) else np.array(value)

    return edit


def drop(key):
    def edit(arrays):
        del arrays[key]

    return edit


def put(key, index, value):
    def edit(arrays):
        arrays[key][index] = value

    return edit


SPOILT = {
    "nan": (
        put("keypoints", (2 + 7, 2, 1), np.nan),
        (
            r"clip 1 \('b'\), frame 7, person 0, joint 2 \(head\): y is nan; set all coordinates of"
            r" a joint that was not found to 0"
        ),
    ),
    "inf": (
        put("keypoints", (42, 0, 2), -np.inf),
        r"clip 2 \('c'\), frame 0, person 0, joint 0 \(hip\): z is -inf",
    ),
    "overflow": (
        change("keypoints", lambda a: a.astype(np.float64) * 1e300),
        r"clip 0 \('a'\), frame 0, .* is -?inf",
    ),
    "missing array": (
        drop("split"),
        r"array 'split' is missing; the file holds class_names, edges, joint_names, keypoints",
    ),
    "missing keypoints": (drop("keypoints"), r"array 'keypoints' is missing"),
    "axes": (
        change("keypoints", lambda a: a[:, :, 0]),
        r"array 'keypoints' has shape \[133, 3\]; it has to have 4 axes",
    ),
    "channels": (
        change("keypoints", lambda a: np.concatenate([a, a], 2)),
        r"array 'keypoints' has 6 channels; this form has x, y or x, y, z",
    ),
    "text for numbers": (
        change("keypoints", lambda a: a.astype(str)),
        r"array 'keypoints' is of type <U\d+; it has to hold numbers",
    ),
    "fractional labels": (
        change("label", lambda a: a + 0.5),
        r"array 'label' is of type float64; it has to hold whole numbers",
    ),
    "numbers for names": (
        change("name", [1, 2, 3, 4]),
        r"array 'name' is of type int64; it has to hold text",
    ),
    "label above": (
        put("label", 3, 2),
        (
            r"clip 3 \('d'\) has label 2, but class_names has 2 classes \(0..1\); count labels from"
            r" 0, or name the class"
        ),
    ),
    "label below": (put("label", 0, -1), r"clip 0 \('a'\) has label -1"),
    "labels short": (
        change("label", lambda a: a[:3]),
        r"labels has 3 entries, but offsets tells of 4 clips",
    ),
    "split": (
        put("split", 2, 7),
        r"clip 2 \('c'\) has split 7; use 0 \(train\), 1 \(test\), 2 \(val\)",
    ),
    "offsets fall": (
        change("offsets", [0, 2, 50, 43, 133]),
        r"offsets falls from 50 to 43 at clip 2 \('c'\); it has to increase",
    ),
    "empty clip": (
        change("offsets", [0, 2, 42, 42, 133]),
        r"clip 2 \('c'\) is empty: offsets stays at 42; drop the clip or give its frames",
    ),
    "offsets begin": (
        change("offsets", [1, 2, 42, 43, 133]),
        r"offsets begins at 1; the first clip has to begin at frame 0",
    ),
    "offsets end": (
        change("offsets", [0, 2, 42, 43, 132]),
        r"offsets ends at 132, but there are 133 frames",
    ),
    "no clip": (change("offsets", [0]), r"offsets has 1 entries and so tells of no clip"),
    "joint names": (
        change("joint_names", ["hip", "head"]),
        (
            r"array 'keypoints' has 3 joints a person, but 'joint_names' has 2 names; make the two"
            r" agree"
        ),
    ),
    "edge outside": (
        change("edges", [[0, 1], [1, 3]]),
        r"array 'edges' does not fit 'joint_names': .*edge \(1, 3\) names a joint outside 0..2",
    ),
    "edge shape": (
        change("edges", [[0, 1, 2]]),
        r"array 'edges' has shape \[1, 3\]; it has to be \[bones, 2\]",
    ),
    "two roots": (change("edges", [[0, 1]]), r"array 'edges' leaves 2 joints without a parent"),
    "name twice": (
        change("name", ["a", "b", "a", "d"]),
        r"names holds 'a' 2 times, first at 0; names have to differ",
    ),
    "class twice": (change("class_names", ["turn", "turn"]), r"class_names holds 'turn' 2 times"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_arrays(kind, tmp_path):
    edit, sentence = SPOILT[kind]
    arrays = named_arrays()
    np.savez(tmp_path / "good.npz", **arrays)
    ClipSet.load(tmp_path / "good.npz")  # so that it is the edit that is refused
    edit(arrays)
    path = tmp_path / "spoilt.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=sentence) as caught:
        ClipSet.load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def write_text(path):
    path.write_text("x,y,z\n1,2,3\n")


def write_nothing(path):
    path.write_bytes(b"")


def write_other_arrays(path):
    np.savez(path, x_train=np.zeros(3))


def write_pickle(path):
    path.write_bytes(pickle.dumps({"keypoints": [1, 2]}))


def write_truncated(path):
    np.savez(path, **named_arrays())
    path.write_bytes(path.read_bytes()[:1500])


def write_folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    "write, sentence",
    [
        (lambda path: None, r"there is no such file; check the path"),
        (write_text, r"this is no .npz \(it does not begin as a zip archive does\)"),
        (write_pickle, r"it has no annotations"),
        (write_nothing, r"the file is empty; copy or download it again"),
        (
            write_truncated,
            (
                r"the file is cut off or damaged: its list of arrays cannot be read; copy or"
                r" download it again"
            ),
        ),
        (
            write_other_arrays,
            r"no known form of clips \(it holds x_train\); known: .*ClipSet.save.*keypoints",
        ),
        (write_folder, r"no known form of clips; known: "),
    ],
)
def test_spoilt_files(write, sentence, tmp_path):
    path = tmp_path / "clips.npz"
    write(path)
    with pytest.raises(DataError, match=sentence) as caught:
        ClipSet.load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="whoever runs this may read everything"
)
def test_unreadable_file(tmp_path):
    path = tmp_path / "clips.npz"
    some_clips().save(path)
    path.chmod(0)
    with pytest.raises(DataError, match="the file cannot be read"):
        ClipSet.load(path)


@pytest.mark.parametrize("form", ["own", "named"])
def test_every_cut_is_refused(form, tmp_path):
    path = tmp_path / "clips.npz"
    some_clips(4).save(path) if form == "own" else np.savez(path, **named_arrays())
    whole = path.read_bytes()
    for length in np.linspace(1, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            ClipSet.load(path)


@pytest.mark.parametrize("form", ["own", "named"])
def test_flipped_bytes_never_change_a_number(form, tmp_path):
    "A damaged byte is refused, or it was of no consequence; no other exception, no other clips."
    path = tmp_path / "clips.npz"
    some_clips(3).save(path) if form == "own" else np.savez_compressed(path, **named_arrays())
    whole, good = path.read_bytes(), ClipSet.load(path)
    rng, refused = np.random.default_rng(0), 0
    for place in rng.integers(0, len(whole), 150):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :]
        )
        try:
            assert torch.equal(ClipSet.load(path).frames, good.frames)
        except DataError:
            refused += 1
    assert refused > 75


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("key", ["name", "keypoints", "subject"])
def test_pickles_are_never_run(key, tmp_path):
    mark, arrays = tmp_path / "the code ran", named_arrays()
    arrays[key] = np.array([Trap(mark)] * 4, dtype=object)
    np.savez(tmp_path / "trap.npz", **arrays)
    with pytest.raises(
        DataError, match=f"array '{key}' holds pickled Python objects, which are never loaded"
    ):
        ClipSet.load(tmp_path / "trap.npz")
    assert not mark.exists()
    np.load(tmp_path / "trap.npz", allow_pickle=True)[key]
    assert mark.exists()  # the trap is a real one


def test_label_sets(tmp_path):
    np.savez(tmp_path / "clips.npz", **named_arrays())
    merged = ClipSet.load(tmp_path / "clips.npz", labels="merged")
    assert (
        merged.class_names == ("any",)
        and merged.labels.tolist() == [0] * 4
        and merged.meta["label"].tolist() == [0, 1, 0, 1]
    )
    with pytest.raises(
        DataError, match=r"clips.npz: there is no label set 'coarse'; known: merged"
    ):
        ClipSet.load(tmp_path / "clips.npz", labels="coarse")
    arrays = named_arrays()
    arrays["merged"][2] = 1
    np.savez(tmp_path / "clips.npz", **arrays)
    with pytest.raises(
        DataError, match=r"clip 2 \('c'\) has label 1, but class_names has 1 classes"
    ):
        ClipSet.load(tmp_path / "clips.npz", labels="merged")


# ---- our own file


def test_round_trip(tmp_path):
    clips = some_clips()
    clips.save(tmp_path / "new" / "clips.npz")
    back = ClipSet.load(tmp_path / "new" / "clips.npz")
    assert (
        same(clips, back)
        and back.skeleton == clips.skeleton
        and back.names == clips.names
        and set(back.meta) == set(clips.meta)
    )
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["clips.npz"]


@pytest.mark.parametrize(
    "header, sentence",
    [
        ("{", "array 'header' is no JSON"),
        ('{"meta": {}}', "array 'header' is no JSON"),
        (
            (
                '{"skeleton": {"name": "s", "joints": ["a"], "edges": [[0, 1]], "center": 0},'
                ' "meta": {}}'
            ),
            "names a joint outside 0..0",
        ),
    ],
)
def test_own_header(header, sentence, tmp_path):
    some_clips().save(tmp_path / "clips.npz")
    arrays = dict(np.load(tmp_path / "clips.npz"))
    np.savez(tmp_path / "clips.npz", **(arrays | {"header": np.array(header)}))
    with pytest.raises(DataError, match=sentence):
        ClipSet.load(tmp_path / "clips.npz")
    np.savez(tmp_path / "clips.npz", **(arrays | {"form": np.array("mdr_repro clips 2")}))
    with pytest.raises(DataError, match="written in the form 'mdr_repro clips 2'"):
        ClipSet.load(tmp_path / "clips.npz")


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "clips.npz"
    some_clips().save(path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError):
        some_clips(5).save(path)
    monkeypatch.undo()
    assert same(ClipSet.load(path), some_clips()) and [p.name for p in tmp_path.iterdir()] == [
        "clips.npz"
    ]


def child(code: str, **environment) -> subprocess.Popen:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_data import *\n"
        + textwrap.dedent(code)
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def test_killed_while_saving(tmp_path):
    path = tmp_path / "clips.npz"
    saving = child(f"""
        small, large = some_clips(6), some_clips(60)
        while True: small.save({str(path)!r}); large.save({str(path)!r}); print("saved", flush=True)
        """)
    assert saving.stdout.readline() == "saved\n"
    for pause in (0.013, 0.05):
        time.sleep(pause)
        ClipSet.load(path)  # whole at any moment
    saving.send_signal(signal.SIGKILL)
    saving.wait()
    assert len(ClipSet.load(path)) in (6, 60)


# ---- batches

FULL = Sampling(num_frames=32, rotate=0.3, scale=0.1, move=True, mirror=0.5)


def epoch_digest(seed):
    digest, g = hashlib.sha256(), torch.Generator().manual_seed(seed)
    for _ in range(2):
        for x, y in batches(some_clips(), "train", 4, FULL, "bone_motion", generator=g):
            digest.update(x.numpy().tobytes() + y.numpy().tobytes())
    return digest.hexdigest()


def test_same_seed_same_batches_in_another_process():
    other = child("print(epoch_digest(3))", PYTHONHASHSEED="7")
    assert other.communicate()[0].strip() == epoch_digest(3) != epoch_digest(4)


def test_only_the_generator_decides():
    clips = some_clips()

    def epoch(disturb):
        g = torch.Generator().manual_seed(0)
        found = []
        for x, _ in batches(clips, "train", 4, FULL, generator=g):
            found.append(x)
            if disturb:
                torch.rand(5)
                np.random.rand(5)
                list(batches(clips, "test", 4, FULL))
                list(batches(clips, "train", 2, FULL, training=False))
        return found

    assert all(torch.equal(a, b) for a, b in zip(epoch(False), epoch(True)))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(batches(clips, "train", 4, FULL, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.get_rng_state())  # torch's own is not touched


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(16),
        Sampling(16, "uniform"),
        Sampling(16, "pad", padding="loop", speed=0.2),
        Sampling(16, "released"),
        Sampling(256, "pad", center="frame", move=True, rotate=0.3),
        Sampling(16, center="none", scale=0.2),
    ],
    ids=lambda s: s.mode,
)
@pytest.mark.parametrize("letters", ["xyz", "xys"])
def test_shapes_and_counts(sampling, letters):
    clips = some_clips(letters=letters)
    for modality in modalities:
        for size, rule, sizes in (
            (4, None, [4, 2]),
            (4, "drop", [4]),
            (5, "keep", [5]),
            (5, "join", [6]),
        ):
            found = list(
                batches(
                    clips,
                    "train",
                    size,
                    sampling,
                    modality,
                    generator=torch.Generator().manual_seed(0),
                    last_batch=rule,
                )
            )
            assert (
                len(found) == num_batches(clips, "train", size, rule)
                and [len(y) for _, y in found] == sizes
            )
            for x, y in found:
                assert (
                    x.shape == (len(y), 3, sampling.num_frames, 20, 2)
                    and x.dtype == torch.float32
                    and y.dtype == torch.int64
                )
                assert x.isfinite().all() and x.is_contiguous()


def test_nothing_is_as_long_as_the_padded_set():
    "One clip of 20,000 frames among short ones: padding the set would take 20,000 frames a clip."
    lengths = torch.tensor([20000] + [3] * 299)
    frames = torch.ones(int(lengths.sum()), 1, 20, 3)
    i = torch.arange(300)
    clips = ClipSet(
        frames,
        torch.cat([torch.zeros(1), lengths.cumsum(0)]).long(),
        i % 2,
        i % 1,
        tuple(map(str, range(300))),
        ("a", "b"),
        get_skeleton("kinect20"),
        {"name": "long", "coordinates": "xyz"},
    )
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if (
                isinstance(out, torch.Tensor)
                and out.untyped_storage().data_ptr() != frames.untyped_storage().data_ptr()
            ):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    with Watch():
        n = sum(
            len(x)
            for x, _ in batches(
                clips,
                "train",
                16,
                Sampling(64, move=True),
                generator=torch.Generator().manual_seed(0),
            )
        )
    # a batch of 64 frames; padded, the set has 300 * 20,000 * 60 numbers
    assert n == 300 and 16 * 64 * 60 * 4 <= largest < frames.nbytes / 3


UNITS = ("coordinates", "joints", "clips")


@pytest.mark.parametrize("unit", UNITS)
def test_a_hit_joint_is_not_missing_in_any_stream(unit):
    """Against noise written as a small number that nobody takes for zero: the same streams, in
    training and in testing, up to that number."""
    clean = some_clips()
    noisy = add_noise(clean, 0.3, seed=0, unit=unit)
    hit = noisy.frames != clean.frames
    assert (
        hit.any()
        and (noisy.frames[hit] == AT_ZERO).all()
        and (noisy.frames[clean.frames == 0] == 0).all()
    )
    assert torch.equal((noisy.frames != 0).any(-1), (clean.frames != 0).any(-1))
    small = ClipSet.select(noisy, range(len(noisy)))
    small.frames[hit] = 1e-7
    for s in (
        Sampling(40, "pad", rotate=0.5, move=True, scale=0.2, mirror=0.5),
        Sampling(40, center="frame"),
        Sampling(40, "released", center="released", move=True),
    ):
        for training in (True, False):
            ours, close, gone = (
                make_streams(
                    c,
                    torch.arange(12),
                    s,
                    training=training,
                    generator=torch.Generator().manual_seed(0),
                )
                for c in (noisy, small, replace(noisy, frames=noisy.frames.masked_fill(hit, 0)))
            )
            for name in modalities:
                torch.testing.assert_close(ours[name], close[name], rtol=0, atol=1e-5)
            if unit == "joints" and s.center != "released":
                assert (ours["joint"] - gone["joint"]).abs().max() > 0.5, (
                    "a missing joint is another thing"
                )


@pytest.mark.parametrize("unit", UNITS)
def test_heat_maps_draw_a_hit_joint_at_zero(unit):
    clean = some_clips()
    noisy = add_noise(clean, 0.3, seed=0, unit=unit)
    window = Sampling(16, center="none")
    x, whole = (make_batch(c, torch.arange(12), window) for c in (noisy, clean))
    small = torch.where(x.abs() < 1e-10, x.sign() * 1e-6, x)
    torch.testing.assert_close(heatmaps(x), heatmaps(small), rtol=0, atol=1e-4)
    assert torch.equal((x != 0).any(1), (whole != 0).any(1))


def test_the_share_of_clips_hits_half_of_their_coordinates():
    clean = some_clips(40)
    hit = add_noise(clean, 0.1, seed=3, unit="clips").frames != clean.frames
    shares = [
        hit[a:b].sum().item() / max((clean.frames[a:b] != 0).sum().item(), 1)
        for a, b in zip(clean.offsets, clean.offsets[1:])
    ]
    assert sum(share > 0 for share in shares) == 4
    sizes = [
        (clean.frames[a:b] != 0).sum().item() for a, b in zip(clean.offsets, clean.offsets[1:])
    ]
    assert all(
        abs(share - 0.5) < 5 * (0.25 / size) ** 0.5 for share, size in zip(shares, sizes) if share
    )


# ---- the slow road: clip by clip, frame by frame, joint by joint, in float64, from the same random
# numbers


def turned(p, angle, i, j):
    "A point turned in the plane of its coordinates i and j."
    p, c, s = p.copy(), math.cos(angle), math.sin(angle)
    p[i], p[j] = c * p[i] - s * p[j], s * p[i] + c * p[j]
    return p


def slow_positions(L, s, training, draw):
    "Frames of a clip, as fractions where they can lie between two; None is an empty one."
    T = s.num_frames
    if s.mode == "crop_resize":
        crop = (
            min(
                L,
                max(
                    s.min_crop,
                    int((s.p_interval[0] + (s.p_interval[1] - s.p_interval[0]) * next(draw)) * L),
                ),
            )
            if training
            else L - 2 * int((L - s.test_p * L) / 2)
        )
        begin = int(next(draw) * (L - crop + 1)) if training else (L - crop) // 2
        return [
            begin
            + min(
                max(Fraction((2 * i + 1) * crop, 2 * T) - Fraction(1, 2), Fraction(0)),
                Fraction(crop - 1),
            )
            for i in range(T)
        ]
    if s.mode == "uniform":
        parts = [range(i * L // T, max((i + 1) * L // T, i * L // T + 1)) for i in range(T)]
        return [p[int(next(draw) * len(p)) if training else len(p) // 2] for p in parts]
    if s.mode == "pad":
        stride = (
            s.stride * (1 - s.speed + 2 * s.speed * next(draw))
            if training and s.speed
            else s.stride
        )
        room = max(1, math.floor(L - (T - 1) * stride))
        begin = math.floor(next(draw) * room if training else (room - 1) / 2)
        at = [begin + i * stride for i in range(T)]
        return [
            t if t <= L - 1 else {"zero": None, "hold": L - 1, "loop": min(t % L, L - 1)}[s.padding]
            for t in at
        ]
    if s.mode == "sorted":
        return (
            sorted(int(next(draw) * L) for _ in range(T))
            if training
            else [i * (L - 1) // (T - 1) for i in range(T)]
        )
    begin = int(next(draw) * ((L // T if L > T else T - L) + 1)) if training else 0
    if L > T:
        at = [math.floor(begin + Fraction(i * L, T)) for i in range(T)]
        # over the end: the frame before again
        return [t if t < L else before for t, before in zip(at, at[:1] + at)]
    return [i - begin if begin <= i < begin + L else None for i in range(T)]


def slow_frames(clips, i, s, at):
    "x [T, M, V, C] and which joints are there [T, M, V]."
    clip, d, c = clips.clip(i).numpy().astype(np.float64), clips.dims, clips.center
    found = [t for t in range(len(clip)) if clip[t, 0, c, :d].any()]
    x, there = np.zeros((len(at), *clip.shape[1:])), np.zeros((len(at), *clip.shape[1:3]), bool)
    for k, m, v in np.ndindex(there.shape):
        if at[k] is None:
            continue
        t, w = int(at[k]), float(at[k] - int(at[k]))
        for frame, share in ((t, 1 - w), (t + 1, w)):
            if not share:
                continue
            joint, place = (
                clip[frame, m, v].copy(),
                [f for f in found if f <= frame][-1:] or found[:1],
            )
            if joint[:d].any():
                there[k, m, v] = True
                if s.center in ("first", "frame") and found:
                    joint[:d] -= clip[found[0] if s.center == "first" else place[0], 0, c, :d]
            x[k, m, v] += share * joint
    return x, there


def slow_augmented(x, there, s, skeleton, d, draw):
    T, other = (
        len(x),
        [
            skeleton.joints.index(
                re.sub(
                    "left|right", lambda side: {"left": "right", "right": "left"}[side[0]], joint
                )
            )
            for joint in skeleton.joints
        ],
    )
    if s.mirror and next(draw) < s.mirror:
        x, there = x[:, :, other] * ([-1] + [1] * (x.shape[3] - 1)), there[:, :, other]
    if s.rotate_axis == "xy":
        most = round(math.degrees(s.rotate))
        about_x, about_y = (math.radians(int(next(draw) * (2 * most + 1)) - most) for _ in range(2))
        turns = [(about_y, 2, 0), (about_x, 1, 2)]
    else:
        planes = ((1, 2), (2, 0), (0, 1)) if d == 3 else ((0, 1),)
        turns = [(s.rotate * (2 * next(draw) - 1), *plane) for plane in planes] if s.rotate else []
        if s.rotate_axis == "vertical":
            turns = turns[1:2]
    size = 1 - s.scale + 2 * s.scale * next(draw) if s.scale else 1
    values = (
        (-10, -5, 0, 5, 10),
        (0.9, 1, 1.1),
        (-0.2, -0.1, 0, 0.1, 0.2),
        (-0.2, -0.1, 0, 0.1, 0.2),
    )
    drift = [[v[int(next(draw) * len(v))] for _ in range(2)] for v in values] if s.move else []
    out = x.copy()
    for t, m, v in zip(*there.nonzero()):
        p = x[t, m, v, :d]
        for angle, a, b in turns:
            p = turned(p, angle, a, b)
        p = p * size
        if drift:
            phi, grow, *shift = [first + (last - first) * t / (T - 1) for first, last in drift]
            p = np.concatenate([turned(p, math.radians(phi), 0, 1)[:2] * grow + shift, p[2:]])
        out[t, m, v, :d] = p
    return out, there


def slow_centered(x, c):
    "Every channel of every joint of every person minus its own center joint of that frame."
    out = x.copy()
    for t, m, v in np.ndindex(x.shape[:3]):
        out[t, m, v] = x[t, m, v] - x[t, m, c]
    return out


def slow_stretched(x, there, all_x, all_there, d):
    "Each axis to -1..1 by the extremes of the whole clip."
    out = x.copy()
    for c in range(d):
        known = all_x[..., c][all_there]
        if not len(known):
            continue
        out[..., c] = (x[..., c] - known.min()) / (known.max() - known.min()) * 2 - 1
        out[..., c][~there] = 0
    return out


def slow_road(clips, i, s, training, draw):
    """The joint stream [T, M, V, C], which joints are there, and of how many channels bones and
    motions are differences."""
    d, c, L = clips.dims, clips.center, int(clips.lengths[i])
    at = slow_positions(L, s, training, draw)
    T, at = len(at), at + list(range(L) if s.stretch else [])
    x, there = slow_frames(clips, i, s, at)
    if s.center == "released":
        there = np.ones_like(there)
    if training:
        x, there = slow_augmented(x, there, s, clips.skeleton, d, draw)
    if s.center == "released":
        x = slow_centered(x, c)
    if s.stretch:
        x = slow_stretched(x[:T], there[:T], x[T:], there[T:], d)
    return x, there[:T], x.shape[3] if s.center == "released" else d


def slow_streams(x, there, skeleton, d):  # each [C, T, V, M]
    def less(p, q, known):
        return np.concatenate([p[:d] - q[:d], (p[d:] + q[d:]) / 2]) if known else np.zeros(len(p))

    def motion(x, there):
        step = np.zeros_like(x)
        for t, m, v in np.ndindex(len(x) - 1, *there.shape[1:]):
            step[t, m, v] = less(x[t + 1, m, v], x[t, m, v], there[t, m, v] and there[t + 1, m, v])
        return step

    bone, bone_there = np.zeros_like(x), np.zeros_like(there)
    for t, m, v in np.ndindex(there.shape):
        w = skeleton.bones[v]
        bone_there[t, m, v] = there[t, m, v] and there[t, m, w]
        bone[t, m, v] = less(x[t, m, v], x[t, m, w], bone_there[t, m, v])
    found = {
        "joint": x,
        "bone": bone,
        "joint_motion": motion(x, there),
        "bone_motion": motion(bone, bone_there),
    }
    return {
        name: torch.from_numpy(stream.transpose(3, 0, 2, 1).copy())
        for name, stream in found.items()
    }


def draw_for(n, s, training, dims, seed):
    "The random numbers of each clip, in the order in which a batch draws them."
    g, columns = torch.Generator().manual_seed(seed), []

    def take(*shape):
        columns.append(torch.rand((n, *shape), generator=g, dtype=torch.float64).view(n, -1))

    if training:
        if s.mode in ("uniform", "sorted"):
            take(s.num_frames)
        else:
            [
                take()
                for _ in range(2 if s.mode == "crop_resize" or s.mode == "pad" and s.speed else 1)
            ]
        if s.mirror:
            take()
        if s.rotate:
            take(2 if s.rotate_axis == "xy" else 3 if dims == 3 else 1)
        if s.scale:
            take()
        if s.move:
            [take(2) for _ in range(4)]
    return [iter(row) for row in (torch.cat(columns, 1).tolist() if columns else [[]] * n)]


def gappy_clips(letters, missing=True):
    """Six clips of two persons; where joints are missing: a clip without its second person, one
    that begins without its center, one that never has it, joints with nothing but a score."""
    clips = some_clips(6, letters)
    frames = torch.randn(clips.frames.shape, generator=torch.Generator().manual_seed(1))
    if missing:
        frames[clips.frames == 0] = 0
        c, (a, b, e, f) = clips.center, clips.offsets[1:5]
        frames[a:b, 1], frames[b : b + 3, 0, c], frames[e:f, 0, c] = 0, 0, 0
        frames[::7, :, 3, : clips.dims] = 0
    return ClipSet(
        frames,
        clips.offsets,
        clips.labels,
        clips.split,
        clips.names,
        clips.class_names,
        clips.skeleton,
        clips.meta,
    )


EVERYTHING = dict(rotate=0.3, scale=0.1, move=True, mirror=0.5)
ROADS = {
    "crop": {},
    "crop, odd T": dict(num_frames=11, min_crop=5),
    "crop, rotate": dict(rotate=0.3),
    "crop, all": EVERYTHING,
    "uniform": dict(mode="uniform", center="frame"),
    "uniform, scale": dict(mode="uniform", scale=0.2, mirror=0.5),
    "pad": dict(mode="pad", stride=3, center="frame", move=True),
    "hold": dict(mode="pad", padding="hold", speed=0.3, stride=2, mirror=0.5),
    "loop": dict(mode="pad", padding="loop", center="none", rotate=0.5),
    "released": dict(mode="released", **EVERYTHING),
    "as the release": dict(mode="released", center="released", move=True),
    "released center, all": dict(center="released", **EVERYTHING),
    "sorted": dict(mode="sorted"),
    "stretched": dict(mode="sorted", stretch=True, rotate=0.5, mirror=0.5),
    "stretched pad": dict(mode="pad", stretch=True, center="none"),
    "stretched crop": dict(stretch=True, center="released"),
}


@pytest.mark.parametrize("missing", [True, False], ids=["gaps", "whole"])
@pytest.mark.parametrize("letters", ["xyz", "xys"])
@pytest.mark.parametrize("road", ROADS)
def test_batches_against_the_slow_road(road, letters, missing):
    """All four streams of a draw, in training and in testing: float32 to its rounding, float64 to
    the last digits."""
    s, clips = Sampling(**dict(num_frames=12) | ROADS[road]), gappy_clips(letters, missing)
    wide, index = ClipSet.select(clips, range(6)), torch.tensor([4, 0, 3, 1, 5, 2])
    # behind the set's back: it holds float32 only
    object.__setattr__(wide, "frames", clips.frames.double())
    for training in (True, False):
        fast, faster = (
            make_streams(
                set_of, index, s, training=training, generator=torch.Generator().manual_seed(2)
            )
            for set_of in (wide, clips)
        )
        for k, (i, draw) in enumerate(zip(index.tolist(), draw_for(6, s, training, clips.dims, 2))):
            x, there, d = slow_road(clips, i, s, training, draw)
            assert not list(draw)  # every number was used
            for name, expected in slow_streams(x, there, clips.skeleton, d).items():
                torch.testing.assert_close(
                    fast[name][k],
                    expected,
                    rtol=0,
                    atol=1e-9,
                    msg=lambda m: f"clip {i}, {name}: {m}",
                )
                torch.testing.assert_close(
                    faster[name][k].double(),
                    expected,
                    rtol=0,
                    atol=1e-5,
                    msg=lambda m: f"clip {i}, {name}: {m}",
                )


UCLA = dict(num_frames=12, mode="sorted", rotate=math.radians(60), rotate_axis="xy", stretch=True)


@pytest.mark.parametrize("missing", [True, False], ids=["gaps", "whole"])
def test_the_preparation_of_nw_ucla_against_the_slow_road(missing):
    s, clips, index = Sampling(**UCLA), gappy_clips("xyz", missing), torch.arange(6)
    for training in (True, False):
        fast = make_streams(
            clips, index, s, training=training, generator=torch.Generator().manual_seed(4)
        )
        for i, draw in enumerate(draw_for(6, s, training, 3, 4)):
            x, there, d = slow_road(clips, i, s, training, draw)
            for name, expected in slow_streams(x, there, clips.skeleton, d).items():
                torch.testing.assert_close(
                    fast[name][i].double(),
                    expected,
                    rtol=0,
                    atol=1e-5,
                    msg=lambda m: f"clip {i}, {name}: {m}",
                )


def test_vertical_rotation_against_the_slow_road():
    s, clips = Sampling(12, rotate=1.0, rotate_axis="vertical"), gappy_clips("xyz")
    x = make_batch(
        clips, torch.tensor([3]), s, training=True, generator=torch.Generator().manual_seed(2)
    )
    [draw] = draw_for(1, s, True, 3, 2)
    slow = slow_road(clips, 3, s, True, draw)
    torch.testing.assert_close(
        x[0].double(), slow_streams(*slow[:2], clips.skeleton, 3)["joint"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("missing", [True, False], ids=["gaps", "whole"])
def test_streams_of_one_draw_are_the_batches_of_one_seed(missing):
    clips, seeded = gappy_clips("xyz", missing), lambda: torch.Generator().manual_seed(5)
    for s in (FULL, Sampling(16, "pad", center="frame")):
        together = list(stream_batches(clips, "train", 2, s, generator=seeded()))
        for modality in modalities:
            alone = list(batches(clips, "train", 2, s, modality, generator=seeded()))
            assert len(alone) == len(together) == 2 and all(
                torch.equal(x, streams[modality]) and torch.equal(y, z) and x.is_contiguous()
                for (x, y), (streams, z) in zip(alone, together)
            )
        assert all(
            list(streams) == ["bone", "joint"]
            for streams, _ in stream_batches(
                clips, "train", 2, s, ("bone", "joint"), generator=seeded()
            )
        )


class NobodyWaits(TorchDispatchMode):
    "Refuses copies from device to device that the host would wait for."

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if function is torch.ops.aten._to_copy.default:
            source, target, waits = args[0], out, not kwargs.get("non_blocking")
        elif function is torch.ops.aten.copy_.default:
            source, target, waits = (
                args[1],
                args[0],
                not (args[2:] or (kwargs.get("non_blocking"),))[0],
            )
        else:
            return out
        if source.device != target.device:
            assert not waits, f"{function} of shape {list(source.shape)} waits"
        return out


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("letters", ["xyz", "xys"])
def test_no_batch_waits_for_its_device(road, letters, monkeypatch):
    """On the meta device there are no numbers, so whoever asks for one fails; so does who mixes
    devices."""
    made = torch.tensor

    def at_home(values, **options):
        assert "device" not in options, "a list is copied to its device while the host waits"
        return made(values, **options)

    monkeypatch.setattr(torch, "tensor", at_home)
    s, clips = Sampling(**dict(num_frames=12) | ROADS[road]), gappy_clips(letters, missing=False)
    origin, whole, longest = survey(clips, s)
    assert longest == int(clips.lengths.max()) and whole == (
        s.mode != "released" and (s.mode != "pad" or s.padding != "zero")
    )
    away, index = ClipSet.select(clips, range(6)), torch.tensor([4, 0, 3]).to("meta")
    for field in ("frames", "offsets", "labels"):
        object.__setattr__(away, field, getattr(clips, field).to("meta"))
    origin = None if origin is None else origin.to("meta")
    for training in (True, False):
        for mask_free in {whole, False}:
            with NobodyWaits():
                streams = make_streams(
                    away, index, s, training=training, known=Survey(origin, mask_free, longest)
                )
            assert all(
                x.is_meta and x.shape == (3, 3, s.num_frames, 20, 2) for x in streams.values()
            )
    if whole:
        with pytest.raises(RuntimeError, match="meta"):
            survey(away, s)  # the survey does ask, once a clip set


# ---- the real sets, where they are at hand


def shared(name):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not here")
    return SHARED / name


def test_nw_ucla():
    clips = ClipSet.load(shared("nw_ucla.npz"))
    table = clips.summary()
    assert (len(clips), clips.num_classes, len(clips.frames)) == (1484, 10, 58534) and table[
        "clips"
    ].to_dict() == {"train": 1020, "test": 464}
    assert clips.skeleton == get_skeleton("kinect20") and clips.meta["coordinates"] == "xyz"
    assert (clips.lengths.min(), clips.lengths.max(), clips.lengths.median()) == (1, 201, 31)
    assert set(clips.meta["view"][clips.indices("test")].tolist()) == {3} and clips.meta[
        "train_views"
    ] == (1, 2)
    for name in ("a04_s01_e01_v01", "a04_s04_e02_v01"):  # the joints known to be missing
        i = clips.names.index(name)
        assert ((clips.frames[clips.offsets[i] : clips.offsets[i + 1]] == 0).all(-1)).sum() == 6
    for x, y in batches(clips, "test", 64, Sampling(), "bone"):
        assert x.isfinite().all() and x.abs().max() < 2  # no bone is two metres long


def test_kinder_gator():
    path = shared("kinder_gator.npz")
    clips = ClipSet.load(path)
    assert (len(clips), clips.num_classes, len(clips.frames)) == (
        1159,
        58,
        194523,
    ) and clips.summary()["subjects"].to_dict() == {"train": 14, "test": 6}
    merged, coarse = (ClipSet.load(path, labels=k) for k in ("merged", "coarse"))
    assert (merged.num_classes, coarse.num_classes) == (48, 4)
    assert coarse.labels.bincount().tolist() == [180, 279, 320, 380]
    assert coarse.meta["label"].equal(clips.labels) and coarse.meta["name"] == "kinder_gator#coarse"
    held = clips.hold_out(clips.meta["subject"][clips.indices("train")].unique()[:2].tolist())
    assert (
        held.summary().loc["test"].equals(clips.summary().loc["test"])
        and held.summary().loc["val", "subjects"] == 2
    )
    with pytest.raises(DataError, match="subject 604 performs no training clip"):
        clips.hold_out([604])  # a test subject


def test_real_set_through_our_own_form(tmp_path):
    clips = ClipSet.load(shared("nw_ucla.npz"))
    clips.save(tmp_path / "again.npz")
    assert same(clips, ClipSet.load(tmp_path / "again.npz"))
