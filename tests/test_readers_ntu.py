"NTU RGB+D, as raw text and as CTR-GCN's arrays: files written here and read back, and spoilt ones."

import io
import pickle
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from mdr_repro.clips.clip_set import ClipSet, DataError
from mdr_repro.clips.sampling import Sampling, frame_positions, origins, sample_frames
from mdr_repro.readers.ntu import Track, ntu_actions, people, plain_frames, read_tracks, two_places
from mdr_repro.readers.ntu_arrays import row_blocks

ID = 72057594037931101  # larger than float64 can tell apart
NAME = "S001C001P001R001A001"


def body(rng, frames, drift=0.0, width=0.5, height=1.7):
    "Joints that fill a box, which drifts along x."
    places = (rng.uniform(-0.5, 0.5, (frames, 25, 3)) * [width, height, 0.3]).round(6)
    places[:, 0], places[:, 1] = [width / 2, height / 2, 0], [-width / 2, -height / 2, 0]
    return places + np.arange(frames)[:, None, None] * [drift, 0, 0] + [0.3, 0.1, 3]


def seen(total, *bodies):
    "Frames, each a list of (id, [25, 3]), of bodies (id, first frame, places)."
    return [
        [(i, p[t - start]) for i, start, p in bodies if start <= t < start + len(p)]
        for t in range(total)
    ]


def write(path, frames, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{len(frames)}"]
    for bodies in frames:
        lines.append(f"{len(bodies)}")
        for number, places in bodies:
            lines += [f"{number} 0 1 1 1 1 0 0.0126 -0.2141 2", "25"]
            lines += [
                f"{x!r} {y!r} {z!r} 278.1 192.3 1054.1 518.6 -0.217 0.034 0.961 -0.061 2"
                for x, y, z in places.tolist()
            ]
    path.write_bytes(end.join([*lines, ""]).encode("ascii"))


def close(a, b, eps=1.1e-6):
    a, b = torch.as_tensor(np.asarray(a)).double(), torch.as_tensor(np.asarray(b)).double()
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=0, atol=eps))


# ---- raw files


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_nobody_to_five_bodies(tmp_path, end):
    "A file for each number of bodies; who is kept is known from how they were made."
    rng = np.random.default_rng(0)
    she, he = body(rng, 40, drift=0.05), body(rng, 40)
    short, bench, third = (
        body(rng, 11),
        body(rng, 40, width=1.2, height=0.4),
        body(rng, 30, drift=0.001),
    )
    everybody = [
        (ID, 0, he),
        (ID + 1, 0, she),
        (ID + 2, 4, short),
        (ID + 3, 0, bench),
        (ID + 4, 5, third),
    ]
    wanted = [None, [he], [she, he], [she, he], [she, he], [she, he]]
    for n in range(6):
        write(tmp_path / f"S001C001P001R001A{n + 1:03}.skeleton", seen(40, *everybody[:n]), end)
    clips = ClipSet.load(tmp_path)
    assert clips.names == tuple(
        f"S001C001P001R001A{n + 1:03}" for n in range(1, 6)
    ) and clips.labels.tolist() == [1, 2, 3, 4, 5]
    assert clips.meta["left_out"] == {"in a list of missing samples": 0, "without a body": 1}
    for n in range(1, 6):
        clip = clips.clip(n - 1)
        assert clip.shape == (40, 2, 25, 3)
        for m in range(2):
            assert close(clip[:, m], wanted[n][m] if m < len(wanted[n]) else np.zeros((40, 25, 3)))
    assert (
        clips.meta["coordinates"] == "xyz"
        and clips.skeleton.name == "ntu25"
        and clips.num_classes == 60
    )


def test_an_id_that_changes_and_frames_without_anybody(tmp_path):
    rng = np.random.default_rng(1)
    first, second = body(rng, 20, drift=0.1), body(rng, 15, drift=0.09)
    write(
        tmp_path / f"{NAME}.skeleton", seen(45, (ID, 3, first), (ID + 1, 25, second))
    )  # 3 empty frames, 20, 2 empty, 15, 5 empty
    clip = ClipSet.load(tmp_path).clip(0)
    assert clip.shape[0] == 35 and close(clip[:, 0], np.concatenate([first, second]))
    assert not clip[:, 1:].any()


def test_two_who_come_and_go(tmp_path):
    "Persons side by side keep their places, and the frames of noise alone are dropped."
    rng = np.random.default_rng(2)
    she, he, noise = body(rng, 30, drift=0.1), body(rng, 20, drift=0.02), body(rng, 8)
    write(
        tmp_path / f"{NAME}.skeleton", seen(50, (ID, 0, noise), (ID + 1, 8, she), (ID + 2, 20, he))
    )
    clip = ClipSet.load(tmp_path).clip(0)
    assert clip.shape[:2] == (32, 2) and close(clip[:30, 0], she) and close(clip[12:, 1], he)
    assert not clip[30:, 0].any() and not clip[:12, 1].any()


def test_a_body_lost_and_found_lies_side_by_side_and_empty_frames_do_not_count(tmp_path):
    """She is seen in 0..14 and 19..29, nobody in 15..18, he from 19 on: among the 26 frames with
    somebody he begins at 15."""
    rng = np.random.default_rng(11)
    she, he = body(rng, 26, drift=0.1), body(rng, 12)
    write(
        tmp_path / f"{NAME}.skeleton",
        seen(31, (ID, 0, she[:15]), (ID, 19, she[15:]), (ID + 1, 19, he)),
    )
    clip = ClipSet.load(tmp_path).clip(0)
    assert (
        len(clip) == 27
        and close(clip[:26, 0], she)
        and close(clip[15:, 1], he)
        and not clip[:15, 1].any()
    )


def test_the_thresholds():
    rng = np.random.default_rng(12)

    def track(p):
        return Track(np.arange(len(p)), p)

    def wide(n, of):  # n of the frames are wider than 0.8 of the height
        p = body(rng, of, width=1.0, height=2.0)
        p[:n, :, 0] = (p[:n, :, 0] - 0.3) * 1.61 + 0.3
        return track(p)

    moving = track(body(rng, 100, drift=0.1))
    assert (
        len(people([moving, track(body(rng, 11))])) == 1
        and len(people([moving, track(body(rng, 12))])) == 2
    )
    assert len(people([moving, wide(69, 100)])) == 2 and len(people([moving, wide(70, 100)])) == 1
    alone = wide(100, 100)
    assert people([alone, track(body(rng, 5))]) == [alone] and people([alone]) == [alone]
    narrow = track(body(rng, 20, width=1.59, height=2.0))
    assert (
        plain_frames(narrow.places).all() and not plain_frames(narrow.places * [1.01, 1, 1]).any()
    )


def test_a_joint_at_exactly_zero_is_there(tmp_path):
    places = body(np.random.default_rng(3), 5)
    places[2, 7] = 0
    write(tmp_path / f"{NAME}.skeleton", seen(5, (ID, 0, places)))
    clip = ClipSet.load(tmp_path).clip(0)
    assert (clip != 0).any(-1).all() and close(clip[:, 0], places)


def test_chosen_people_do_not_depend_on_their_numbers_or_their_order_in_a_frame(tmp_path):
    rng = np.random.default_rng(4)
    for k in range(10):
        bodies = [
            (
                ID + b,
                int(rng.integers(0, 15)),
                body(
                    rng,
                    int(rng.integers(5, 30)),
                    drift=rng.uniform(0, 0.1),
                    width=rng.uniform(0.3, 2),
                ),
            )
            for b in range(4)
        ]
        frames = seen(45, *bodies)
        write(tmp_path / "a.skeleton", frames)
        renamed = [[(10**17 - n, p) for n, p in frame][::-1] for frame in frames]
        write(tmp_path / "b.skeleton", renamed)
        a, b = (two_places(people(read_tracks(tmp_path / f"{name}.skeleton"))) for name in "ab")
        assert np.array_equal(a, b), k


def test_protocols_of_both_editions(tmp_path):
    places = body(np.random.default_rng(5), 2)
    names = ["S001C001P001R001A001", "S002C002P003R002A060", "S017C003P040R001A030"]
    for name in names:
        write(tmp_path / "nturgb+d_skeletons" / f"{name}.skeleton", seen(2, (ID, 0, places)))
    clips = ClipSet.load(tmp_path)  # the folder with the files, or the one around it
    assert clips.names == tuple(names) and clips.class_names == ntu_actions[:60]
    assert clips.meta["split_xsub"].tolist() == clips.split.tolist() == [0, 1, 1] and clips.meta[
        "split_xview"
    ].tolist() == [1, 0, 0]
    assert [clips.meta[k].tolist() for k in ("subject", "camera", "setup", "repetition")] == [
        [1, 3, 40],
        [1, 2, 3],
        [1, 2, 17],
        [1, 2, 1],
    ]
    write(
        tmp_path / "nturgb+d_skeletons120" / "S018C001P045R001A061.skeleton",
        seen(2, (ID, 0, places)),
    )
    clips = ClipSet.load(tmp_path)
    assert clips.num_classes == 120 and "split_xview" not in clips.meta
    assert clips.split.tolist() == [0, 1, 1, 0] and clips.meta["split_xset"].tolist() == [
        1,
        0,
        1,
        0,
    ]


def test_the_list_of_missing_samples(tmp_path):
    folder, places = tmp_path / "ntu", body(np.random.default_rng(6), 2)
    for p in range(1, 6):
        write(folder / f"S001C001P00{p}R001A001.skeleton", seen(2, (ID, 0, places)))
    (folder / "S001C001P002R001A001.skeleton").write_text("spoilt, but nobody reads it")
    text = (
        "2 of the captured samples have missing or incomplete skeleton"
        " data.\r\n\r\nS001C001P002R001A001\r\n"
        "S001C001P004R001A001.skeleton\r\nS009C001P004R001A001\r\n"
    )
    (folder / "NTU_RGBD_samples_with_missing_skeletons.txt").write_text(text, newline="")
    clips = ClipSet.load(folder)
    assert (
        clips.meta["subject"].tolist() == [1, 3, 5]
        and clips.meta["left_out"]["in a list of missing samples"] == 2
    )
    clips.save(tmp_path / "kept.npz")
    assert ClipSet.load(tmp_path / "kept.npz").checksum() == clips.checksum()


def spoil(line, change):
    return lambda lines: (
        lines[: line - 1] + [change(lines[line - 1]) if callable(change) else change] + lines[line:]
    )


SPOILT = {
    "empty": (lambda lines: [], r"the file ends before line 1, the number of frames"),
    "cut between frames": (
        lambda lines: lines[:29],
        r"the file ends before line 30, the number of bodies of frame 1",
    ),
    "cut in a body": (
        lambda lines: lines[:40],
        r"the file ends within frame 1, body 0, before joint 8",
    ),
    "cut in a number": (
        lambda lines: lines[:28] + [lines[28][:9]],
        r"the file ends within|line 29, frame 0, body 0, joint 24, has \d values instead of 12",
    ),
    "a thousand million frames": (
        spoil(1, b"1000000000"),
        r"the file ends before line 58, the number of bodies of frame 2",
    ),
    "a thousand million bodies": (
        spoil(2, b"1000000000"),
        r"line 30, frame 0, body 1, has 1 values instead of 10",
    ),
    "five thousand digits": (
        spoil(1, b"9" * 5000),
        r"line 1, the number of frames, is '9{40}' and no whole number",
    ),
    "too many frames": (spoil(1, b"1"), r"the file goes on after its 1 frames \(line 30\)"),
    "joint count changes": (
        spoil(32, b"20"),
        r"frame 1, body 0 has 20 joints instead of 25 \(line 32\)",
    ),
    "a value too few": (
        spoil(7, lambda line: line.rsplit(b" ", 1)[0]),
        r"line 7, frame 0, body 0, joint 2, has 11 values instead of 12",
    ),
    "nan": (
        spoil(7, lambda line: b"nan " + line.split(b" ", 1)[1]),
        r"frame 0, body 0: a coordinate is no finite number",
    ),
    "infinite": (
        spoil(7, lambda line: b"1e999 " + line.split(b" ", 1)[1]),
        r"frame 0, body 0: a coordinate is no finite number",
    ),
    "decimal comma": (
        spoil(7, lambda line: b"0,25 " + line.split(b" ", 1)[1]),
        r"frame 0, body 0: could not convert string to float: b?'0,25'",
    ),
    "a body twice": (
        lambda lines: [b"1", b"2", *lines[2:29], *lines[2:29]],
        rf"frame 0 holds the body {ID} twice",
    ),
    "binary": (lambda lines: [bytes(range(256))], r"line 1, the number of frames, is "),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_file_is_named(tmp_path, kind):
    change, said = SPOILT[kind]
    places = body(np.random.default_rng(7), 2)
    path = tmp_path / "inner" / f"{NAME}.skeleton"
    write(path, seen(2, (ID, 0, places)))
    path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())))
    begin = time.monotonic()
    with pytest.raises(
        DataError,
        match=(
            rf"inner/{NAME}.skeleton: ({said}).*; copy the file again, or name it in a list of"
            r" missing samples"
        ),
    ) as e:
        ClipSet.load(tmp_path)
    assert (
        str(e.value).startswith(str(tmp_path))
        and len(str(e.value).splitlines()) == 1
        and time.monotonic() - begin < 2
    )


def test_a_file_cut_anywhere_is_never_a_shorter_clip(tmp_path):
    rng = np.random.default_rng(8)
    path = tmp_path / f"{NAME}.skeleton"
    write(path, seen(3, (ID, 0, body(rng, 3)), (ID + 1, 1, body(rng, 2))), "\r\n")
    whole = path.read_bytes()
    for cut in rng.integers(0, len(whole) - 3, 100):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read_tracks(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("S001C001P001R001A121", "tells of action 121, but NTU RGB\\+D has 1..120"),
        ("S001C001P000R001A001", "tells of subject 0"),
        ("walking", "'walking' is no name of NTU RGB\\+D"),
    ],
)
def test_a_name_that_says_nothing(tmp_path, name, said):
    write(tmp_path / f"{name}.skeleton", seen(2, (ID, 0, body(np.random.default_rng(9), 2))))
    with pytest.raises(DataError, match=said):
        ClipSet.load(tmp_path)


def test_folders_that_cannot_be_used(tmp_path):
    write(tmp_path / "empty" / f"{NAME}.skeleton", [[], []])
    with pytest.raises(DataError, match="there is no clip in it that can be used"):
        ClipSet.load(tmp_path / "empty")
    for where in "ab":
        write(
            tmp_path / "twice" / where / f"{NAME}.skeleton",
            seen(1, (ID, 0, body(np.random.default_rng(0), 1))),
        )
    with pytest.raises(DataError, match=f"clip '{NAME}': it is there twice"):
        ClipSet.load(tmp_path / "twice")
    (tmp_path / "twice" / "my_missing_skeletons.txt").write_text("none\n")
    with pytest.raises(DataError, match="the list my_missing_skeletons.txt holds no name"):
        ClipSet.load(tmp_path / "twice")


# ---- CTR-GCN's arrays


def padded(clips, T=300):
    "The clips as that preparation writes them: moved, padded, one array."
    x = np.zeros((len(clips), T, 2, 25, 3), np.float32)
    for n in range(len(clips)):
        c = clips.clip(n).numpy()
        there = (c != 0).any((2, 3))
        x[n, : len(c), : c.shape[1]][there] = (c - c[0, 0, 1])[there]
    return x.reshape(len(clips), T, 150)


@pytest.fixture
def folder(tmp_path):
    "Six raw clips of one and two persons."
    rng = np.random.default_rng(10)
    for n in range(6):
        bodies = [(ID, 0, body(rng, 20 + n, drift=0.05)), (ID + 1, 3, body(rng, 14))]
        write(
            tmp_path / "ntu" / f"S001C00{n % 3 + 1}P00{n + 1}R001A0{n + 48}.skeleton",
            seen(30, *bodies[: 1 + n % 2]),
        )
    return tmp_path / "ntu"


def arrays_of(clips, dtype=np.float32):
    out = {}
    for split in ("train", "test"):
        part = clips.select(clips.indices(split))
        out |= {
            f"x_{split}": padded(part).astype(dtype),
            f"y_{split}": np.eye(60)[part.labels.numpy()],
        }
    return out


@pytest.mark.parametrize(
    ("save", "dtype", "eps"),
    [
        (np.savez, "f4", 1.1e-6),
        (np.savez_compressed, "f8", 1.1e-6),
        (np.savez, ">f4", 1.1e-6),
        (np.savez, "f2", 2e-3),
    ],
)
def test_the_arrays_and_the_raw_files_give_the_same_input(tmp_path, folder, save, dtype, eps):
    raw = ClipSet.load(folder)
    order = torch.cat([raw.indices("train"), raw.indices("test")])
    raw = raw.select(order)
    save(tmp_path / "NTU60_CS.npz", **arrays_of(raw, dtype))
    clips = ClipSet.load(tmp_path / "NTU60_CS.npz")
    assert (
        clips.names == ("train_0", "train_1", "train_2", "train_3", "test_0", "test_1")
        and clips.num_classes == 60
    )
    for field in ("labels", "split", "lengths"):
        assert torch.equal(getattr(clips, field), getattr(raw, field)), field
    i, s = torch.arange(6), Sampling(num_frames=32)
    x, y = (
        sample_frames(c, i, frame_positions(c.lengths, s, training=False), origins(c, "first"))[0]
        for c in (clips, raw)
    )
    assert x.shape == y.shape == (6, 3, 32, 25, 2) and close(x, y, 3 * eps)


def test_a_clip_is_cut_where_all_is_zero_and_not_by_its_sum(tmp_path, folder):
    a = arrays_of(ClipSet.load(folder))
    a["x_train"][0] = 0
    a["x_train"][0, :50] = -np.abs(np.random.default_rng(0).normal(size=(50, 150)))
    a["x_train"][0, 20:30] = 0  # a gap
    a["x_train"][1] = 0  # nobody
    a["x_train"][2, 5, 75:] = [1, -1, 0] * 25  # sums to zero
    np.savez(tmp_path / "a.npz", **a)
    clips = ClipSet.load(tmp_path / "a.npz")
    assert (
        clips.names[:2] == ("train_0", "train_2")
        and clips.lengths[0] == 50
        and clips.meta["left_out"] == {"all zero": 1}
    )
    assert not clips.clip(0)[20:30].any() and close(clips.clip(0).flatten(1), a["x_train"][0, :50])
    assert close(clips.clip(1)[5, 1, 3], [1, -1, 0])


def test_the_padding_is_never_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    x = np.zeros((800, 300, 150), np.float32)
    x[:, :4] = rng.normal(size=(800, 4, 150))
    np.savez_compressed(
        tmp_path / "a.npz",
        x_train=x,
        y_train=np.eye(60)[rng.integers(0, 60, 800)],
        x_test=x[:1],
        y_test=np.eye(60)[:1],
    )
    size = x.nbytes
    del x
    tracemalloc.start()
    clips = ClipSet.load(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clips) == 801 and set(clips.lengths.tolist()) == {4}
    assert peak < size / 2.5, f"{peak >> 20} of {size >> 20} MiB"


def change(name, edit):
    def apply(a):
        a[name] = edit(a[name])

    return apply


def put(name, index, value):
    def apply(a):
        a[name][index] = value

    return apply


SPOILT_ARRAYS = {
    "missing": (
        lambda a: a.pop("y_test"),
        r"array 'y_test' is missing; the file holds x_test, x_train, y_train",
    ),
    "one person": (
        change("x_test", lambda x: x[..., :75]),
        r"array 'x_test' has shape \[2, 300, 75\]; it has to be \[N, T, 150\]",
    ),
    "five axes": (
        change("x_test", lambda x: x.reshape(2, 300, 2, 25, 3)),
        r"array 'x_test' has shape \[2, 300, 2, 25, 3\]",
    ),
    "rows of y": (
        change("y_train", lambda y: y[:3]),
        r"array 'x_train' has 4 clips, but 'y_train' has shape \[3, 60\]",
    ),
    "class numbers": (
        change("y_train", lambda y: y.argmax(1)),
        r"array 'y_train' has 1 axes; it has to be \[N, K\] with one 1 a row",
    ),
    "no one": (put("y_train", 2, 0), r"clip 'train_2': its row of array 'y_train' holds 0 ones"),
    "two ones": (
        put("y_test", (1, slice(0, 2)), 1),
        r"clip 'test_1': its row of array 'y_test' holds [23] ones",
    ),
    "a half": (
        put("y_test", (1, slice(0, 60)), 0.5),
        r"clip 'test_1': its row of array 'y_test' holds other numbers than 0 and 1",
    ),
    "a one and a half": (
        put("y_test", (1, slice(0, 40)), 0.5),
        r"clip 'test_1': its row of array 'y_test' holds other numbers than 0 and 1",
    ),
    "classes": (
        change("y_test", lambda y: y[:, :55]),
        r"'y_train' tells of 60 classes, 'y_test' of 55|holds 0 ones",
    ),
    "nan": (
        put("x_test", (1, 6, 4), np.nan),
        r"clip 'test_1': frame 6, person 0, joint 1 \(spine_mid\): y is nan",
    ),
    "text": (
        change("x_test", lambda x: x.astype("U4")),
        r"array 'x_test' is of type <U4; it has to hold numbers",
    ),
    "by column": (
        change("x_test", np.asfortranarray),
        r"array 'x_test' is stored column by column",
    ),
    "nobody at all": (
        lambda a: a.update(x_train=a["x_train"] * 0, x_test=a["x_test"] * 0),
        r"there is no clip in it that can be used",
    ),
}


@pytest.mark.parametrize("kind", SPOILT_ARRAYS)
def test_spoilt_arrays_are_named(tmp_path, folder, kind):
    spoil, said = SPOILT_ARRAYS[kind]
    a = arrays_of(ClipSet.load(folder))
    spoil(a)
    np.savez(tmp_path / "a.npz", **a)
    with pytest.raises(DataError, match=said) as e:
        ClipSet.load(tmp_path / "a.npz")
    assert (
        str(e.value).startswith(f"{tmp_path / 'a.npz'}: ") and len(str(e.value).splitlines()) == 1
    )


def test_a_damaged_archive(tmp_path, folder):
    "Any byte changed or lost: an error or the same clips, and never others."
    path, rng = tmp_path / "a.npz", np.random.default_rng(0)
    a = arrays_of(ClipSet.load(folder))
    np.savez_compressed(path, **{k: v[:2, :40] if k[0] == "x" else v[:2] for k, v in a.items()})
    whole, sound = path.read_bytes(), ClipSet.load(path).checksum()
    failed = 0
    for _ in range(40):
        bad = bytearray(whole)
        bad[rng.integers(2, len(bad))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            assert ClipSet.load(path).checksum() == sound
        except DataError:
            failed += 1
    assert failed > 20
    for cut in rng.integers(2, len(whole), 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            ClipSet.load(path)


def archive(path, header, content, members=("x_train", "y_train", "x_test", "y_test")):
    "An .npz whose arrays all begin with one header."
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name in members:
            z.writestr(f"{name}.npy", text.getvalue() + content)


def test_a_header_is_not_believed(tmp_path):
    tracemalloc.start()
    for shape, content, said in (
        ((57000, 300, 150), b"0" * 600, "claims the shape"),
        ((10**18, 0, 150), b"", "has shape"),
        ((1, 10**9, 150), b"0" * 600, "claims the shape"),
        ((-1, -1, 150), b"0" * 600, "claims the shape"),
    ):
        archive(
            tmp_path / "a.npz", {"descr": "<f4", "fortran_order": False, "shape": shape}, content
        )
        with pytest.raises(DataError, match=said):
            ClipSet.load(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


def test_objects_are_never_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    archive(
        tmp_path / "a.npz",
        {"descr": "|O", "fortran_order": False, "shape": (1, 300, 150)},
        pickle.dumps([Evil()]),
    )
    with pytest.raises(DataError, match="is of type object"):
        ClipSet.load(tmp_path / "a.npz")
    with pytest.raises(DataError, match="is of type object"):
        list(row_blocks(tmp_path / "a.npz", "x_train"))
    assert not (tmp_path / "made").exists()
