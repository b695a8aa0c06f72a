"Readers of JSON and CSV: files of every layout come back exactly, spoilt ones are named."

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from mdr_repro.clips.clip_set import ClipSet, DataError, find_reader
from mdr_repro.clips.sources import open_clips, source_checksum
from mdr_repro.readers import kinder_gator, nw_ucla
from mdr_repro.skeleton import get_skeleton


def body(rng, frames=5, joints=17, channels=3):
    # exact in float32 and in JSON
    return rng.uniform(10, 200, size=(frames, joints, channels)).astype(np.float32).astype(float)


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


# ---- poses: every family of files, one person


def openpose(place, name, clip):
    for t, a in enumerate(clip):
        dump(
            place / name / f"{name}_{t}_keypoints.json",
            {
                "version": 1.3,
                "people": [
                    {
                        "person_id": [-1],
                        "pose_keypoints_2d": a.ravel().tolist(),
                        "face_keypoints_2d": [],
                    }
                ],
            },
        )


def openpose_old(place, name, clip):
    for t, a in enumerate(clip):
        dump(
            place / name / f"{t}.json",
            {"version": 1.0, "people": [{"pose_keypoints": a.ravel().tolist()}]},
        )


def mmpose(place, name, clip):
    dump(
        place / f"{name}.json",
        {
            "meta_info": {},
            "instance_info": [
                {
                    "frame_id": t,
                    "instances": [
                        {
                            "keypoints": a[:, :2].tolist(),
                            "keypoint_scores": a[:, 2].tolist(),
                            "bbox": [[0, 0, 1, 1]],
                        }
                    ],
                }
                for t, a in enumerate(clip)
            ],
        },
    )


def mmpose_list(place, name, clip):
    dump(
        place / f"{name}.json",
        [
            {
                "frame_id": t,
                "instances": [
                    {"keypoints": a[:, :2].tolist(), "keypoint_scores": a[:, 2].tolist()}
                ],
            }
            for t, a in enumerate(clip)
        ],
    )


def coco_results(place, name, clip):
    dump(
        place / f"{name}.json",
        [
            {
                "image_id": f"img_{t}.jpg",
                "category_id": 1,
                "keypoints": a.ravel().tolist(),
                "score": 2.5,
            }
            for t, a in reversed([*enumerate(clip)])
        ],
    )


def coco_frames(place, name, clip):
    for t, a in enumerate(clip):
        dump(
            place / name / f"img_{t}.json",
            [{"category_id": 1, "keypoints": a.ravel().tolist(), "score": 2.5}],
        )


def alphapose(place, name, clip):
    dump(
        place / f"{name}.json",
        [
            {"image_id": f"{t}.jpg", "keypoints": a.ravel().tolist(), "score": 2.5, "idx": [3.0]}
            for t, a in enumerate(clip)
        ],
    )


def posetrack(place, name, clip):
    images = [{"id": 900 - t, "file_name": f"{name}/{t}.jpg"} for t in range(len(clip))]
    notes = [
        {"id": t, "image_id": 900 - t, "track_id": 0, "keypoints": (a * [1, 1, 2]).ravel().tolist()}
        for t, a in enumerate(clip)
    ]
    dump(place / f"{name}.json", {"images": images, "annotations": notes, "categories": []})


FAMILIES = [
    openpose,
    openpose_old,
    mmpose,
    mmpose_list,
    coco_results,
    coco_frames,
    alphapose,
    posetrack,
]


@pytest.mark.parametrize("joints", [17, 25])
@pytest.mark.parametrize("write", FAMILIES)
def test_a_family_of_pose_files(write, joints, tmp_path):
    rng = np.random.default_rng(0)
    poses = {
        f"{kind}/film {n}": body(rng, 12 + n, joints) for kind in ("jump", "spin") for n in range(3)
    }
    for name, clip in poses.items():
        write(tmp_path / name.split("/")[0], name.split("/")[1], clip)
    assert find_reader(tmp_path) == "pose_json"
    clips = ClipSet.load(tmp_path)
    assert (
        clips.names == tuple(poses)
        and clips.class_names == ("jump", "spin")
        and clips.labels.tolist() == [0, 0, 0, 1, 1, 1]
    )
    assert (
        clips.skeleton == get_skeleton({17: "coco17", 25: "body25"}[joints])
        and clips.meta["coordinates"] == "xys"
    )
    assert all(
        np.array_equal(clips.clip(i)[:, 0], clip.astype(np.float32))
        for i, clip in enumerate(poses.values())
    )  # 12 frames: 2 comes before 10
    assert [int((clips.split[clips.labels == k] == 1).sum()) for k in (0, 1)] == [1, 1]


def test_folders_of_splits_and_poses_without_scores(tmp_path):
    rng = np.random.default_rng(0)
    told = {"train/a/1": 0, "train/b/1": 0, "val/a/2": 2, "test/b/2": 1}
    bodies = {name: body(rng, 3, 17, 2) for name in told}
    for name, clip in bodies.items():
        dump(tmp_path / f"{name}.json", [{"instances": [{"keypoints": a.tolist()}]} for a in clip])
    clips = ClipSet.load(tmp_path)
    assert (
        dict(zip(clips.names, clips.split.tolist())) == told
        and clips.meta["coordinates"] == "xy"
        and clips.class_names == ("a", "b")
    )
    assert all(
        np.array_equal(clips.clip(i)[:, 0], bodies[n].astype(np.float32))
        for i, n in enumerate(clips.names)
    )


def table(folder, *lines):
    (folder / "labels.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")


def test_a_table_of_clips(tmp_path):
    rng = np.random.default_rng(0)
    one, two = body(rng), body(rng)
    one[1, 4] = 0  # not found
    one[2, 5, :2] = 960, 540  # found in the very middle
    openpose(tmp_path / "deep" / "er", "clip_1", one)
    mmpose(tmp_path, "clip_2", two)
    mmpose(tmp_path, "unlisted", two)
    table(
        tmp_path,
        "name, label, split, subject, there, width, height",
        'clip_2, "spin, fast", val, 7, 0, 1920, 1080',
        "deep/er/clip_1, jump, train, 8, 1, 1920, 1080",
    )
    clips = ClipSet.load(tmp_path)
    assert clips.names == ("clip_2", "deep/er/clip_1") and clips.class_names == (
        "jump",
        "spin, fast",
    )
    assert (
        clips.labels.tolist(),
        clips.split.tolist(),
        clips.meta["subject"].tolist(),
        clips.meta["there"].tolist(),
    ) == ([1, 0], [2, 0], [7, 8], [0, 1])
    expected = np.concatenate([(two[..., :2] - [960, 540]) / [960, 540], two[..., 2:]], -1)
    np.testing.assert_allclose(clips.clip(0)[:, 0], expected, rtol=1e-6)
    assert (
        (clips.clip(1)[1, 0, 4] == 0).all()
        and (clips.clip(1)[2, 0, 5, :2] != 0).any()
        and clips.clip(1)[2, 0, 5, :2].abs().max() < 1e-5
    )
    table(tmp_path, "name,label", "clip_2,2", "deep/er/clip_1,10")
    assert ClipSet.load(tmp_path).class_names == ("2", "10")


def test_a_skeleton_of_ones_own(tmp_path):
    clip = body(np.random.default_rng(0), 4, 3)
    openpose(tmp_path / "nod", "1", clip)
    dump(
        tmp_path / "skeleton.json",
        {
            "name": "stick",
            "joints": ["hip", "spine", "head"],
            "edges": [[0, 1], [1, 2]],
            "center": 0,
        },
    )
    clips = ClipSet.load(tmp_path)
    assert clips.skeleton.joints == ("hip", "spine", "head") and np.array_equal(
        clips.frames[:, 0], clip.astype(np.float32)
    )


def test_five_persons_and_nobody(tmp_path):
    "Two slots by score; frames without anybody stay, in the middle and at the end."
    rng = np.random.default_rng(0)
    poses = body(rng, 5)
    poses[:, :, 2] = np.array([0.2, 0.9, 0.1, 0.8, 0.3])[:, None]
    for t in range(6):
        people = (
            []
            if t in (2, 5)
            else [
                {"person_id": [int(k)], "pose_keypoints_2d": poses[k].ravel().tolist()}
                for k in rng.permutation(5)
            ]
        )
        dump(tmp_path / "a" / "1" / f"{t}.json", {"people": people})
    clips = ClipSet.load(tmp_path)
    there = torch.tensor([True, True, False, True, True, False])
    assert clips.frames.shape == (6, 2, 17, 3) and clips.meta["left_out"].tolist() == [12]
    for slot, k in enumerate((1, 3)):
        assert torch.equal(
            clips.frames[:, slot], torch.from_numpy(poses[k]).float() * there[:, None, None]
        )


def pose_folder(folder):
    clip = body(np.random.default_rng(0))
    for name in ("a/1", "b/1"):
        openpose(folder / name[0], name[2], clip)


def frame(folder, value, name="b/1/1_2_keypoints.json"):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def person(keypoints):
    return {"people": [{"pose_keypoints_2d": keypoints}]}


POSES = {
    "cut off": (
        lambda f: frame(f, '{"people": [{"pose'),
        "b/1/1_2_keypoints.json is no readable JSON",
    ),
    "empty file": (lambda f: frame(f, ""), "b/1/1_2_keypoints.json is no readable JSON"),
    "deep": (lambda f: frame(f, "[" * 200_000), "b/1/1_2_keypoints.json is no readable JSON"),
    "no frame": (
        lambda f: frame(f, {"version": 1}),
        "b/1/1_2_keypoints.json: it is no frame: no list of persons",
    ),
    "a number": (lambda f: frame(f, "5"), "b/1/1_2_keypoints.json: it is no frame"),
    "no keypoints": (
        lambda f: frame(f, {"people": [{"bbox": 1}]}),
        r"b/1/1_2_keypoints.json: a person has no keypoints \(but bbox\)",
    ),
    "person": (
        lambda f: frame(f, {"people": [3]}),
        "a person is a int, not an object with keypoints",
    ),
    "other joints": (
        lambda f: frame(f, person([1.0] * 75)),
        (
            "b/1/1_2_keypoints.json: a person has 25 joints with 3 numbers each, others have 17"
            " with 3; use one estimator"
        ),
    ),
    "not in threes": (
        lambda f: frame(f, person([1.0] * 50)),
        r"pose_keypoints_2d has shape \[50\]",
    ),
    "ragged": (
        lambda f: frame(f, person([[1, 2], [3]])),
        "pose_keypoints_2d is no regular list of numbers",
    ),
    "text": (
        lambda f: frame(f, person(["x"] * 51)),
        "pose_keypoints_2d is no regular list of numbers",
    ),
    "object": (
        lambda f: frame(f, person({"x": 1})),
        r"pose_keypoints_2d has shape \[\]|pose_keypoints_2d is no regular list",
    ),
    "huge number": (
        lambda f: frame(
            f, '{"people": [{"pose_keypoints_2d": [' + ",".join(["1" + "0" * 400] * 51) + "]}]}"
        ),
        "pose_keypoints_2d is no regular list of numbers|x is inf",
    ),
    "nan": (
        lambda f: frame(f, person([1.0] * 30 + [float("nan")] + [1.0] * 20)),
        r"clip 'b/1': frame 2, person 0, joint 10 \(right_wrist\): x is nan",
    ),
    "crowd": (
        lambda f: frame(f, {"people": [{"pose_keypoints_2d": [1.0] * 51}] * 101}),
        "101 persons, more than 100",
    ),
    "nobody": (
        lambda f: [frame(f, {"people": []}, f"a/1/1_{t}_keypoints.json") for t in range(5)],
        "clip 'a/1': nobody in any of its 5 frames; drop the clip",
    ),
    "no frames": (
        lambda f: (f / "b" / "2").mkdir(),
        "clip 'b/2' has no frame; drop the clip or give its JSON files",
    ),
    "unknown joints": (
        lambda f: [
            frame(f, person([1.0] * 54), p.relative_to(f).as_posix())
            for p in f.rglob("*_keypoints.json")
        ],
        r"persons have 18 joints; known without skeleton.json are 17 \(coco17\), 25 \(body25\)",
    ),
    "misplaced": (
        lambda f: frame(f, {"people": []}, "stray.json"),
        "stray.json lies where only folders of classes are looked for",
    ),
    "skeleton": (
        lambda f: dump(
            f / "skeleton.json",
            {"name": "stick", "joints": ["a", "b"], "edges": [[0, 1]], "center": 0},
        ),
        "skeleton.json has 2 joints, persons have 17",
    ),
    "skeleton broken": (
        lambda f: dump(f / "skeleton.json", {"name": "stick"}),
        "skeleton.json: skeleton lacks joints, edges, center",
    ),
    "table empty": (lambda f: table(f, "name,label"), "labels.csv has no line below its first"),
    "table columns": (lambda f: table(f, "file,label", "a/1,x"), "labels.csv has no column 'name'"),
    "table escape": (
        lambda f: table(f, "name,label", "../../etc,x"),
        "labels.csv, line 2: '../../etc' is no clip below the folder",
    ),
    "table absolute": (
        lambda f: table(f, "name,label", "/etc,x"),
        "labels.csv, line 2: '/etc' is no clip below the folder",
    ),
    "table stranger": (
        lambda f: table(f, "name,label", "a/1,x", "a/9,x"),
        "labels.csv, line 3: there is no clip 'a/9'",
    ),
    "table label": (lambda f: table(f, "name,label", "a/1,"), "clip 'a/1' has no label"),
    "table split": (
        lambda f: table(f, "name,label,split", "a/1,x,tests"),
        "labels.csv, line 2: split is 'tests'; use train, test, val",
    ),
    "table half a split": (
        lambda f: table(f, "name,label,split", "a/1,x,train", "b/1,y,"),
        "labels.csv: clip 'b/1' has no split, others have one",
    ),
    "table short": (
        lambda f: table(f, "name,label,split", "a/1,x"),
        "labels.csv, line 2 has fewer entries",
    ),
    "table long": (
        lambda f: table(f, "name,label", "a/1,x,y"),
        "labels.csv, line 2 has more entries",
    ),
    "table subject": (
        lambda f: table(f, "name,label,subject", "a/1,x,Anna"),
        "labels.csv, line 2: subject is 'Anna'; write a whole number",
    ),
    "table twice": (
        lambda f: table(f, "name,label", "a/1,x", "a/1,y"),
        "clip 'a/1': it is there twice",
    ),
    "table size": (
        lambda f: table(f, "name,label,width,height", "a/1,x,0,9"),
        "width 0 and height 9 are no size of a film",
    ),
    "table some sizes": (
        lambda f: table(f, "name,label,width,height", "a/1,x,10,10", "b/1,x,,"),
        "clip 'b/1' tells no width and height, others do",
    ),
    "table bytes": (
        lambda f: (f / "labels.csv").write_bytes(b"name,label\n\xff\xfe,x\n"),
        "labels.csv is no text in UTF-8",
    ),
}


def refused(folder, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        ClipSet.load(folder)
    assert str(caught.value).startswith(f"{folder}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", POSES)
def test_spoilt_poses(kind, tmp_path):
    spoil, sentence = POSES[kind]
    pose_folder(tmp_path)
    ClipSet.load(tmp_path)
    spoil(tmp_path)
    refused(tmp_path, sentence)


# ---- NW-UCLA


def ucla(folder, name, label, frames, **changes):
    dump(
        folder / f"{name}.json",
        {"file_name": name, "skeletons": frames.tolist(), "label": label} | changes,
    )


def test_nw_ucla_comes_back(tmp_path):
    rng, told = np.random.default_rng(0), {}
    for i, action in enumerate(nw_ucla.ACTIONS):
        for view in (1, 2, 3):
            told[f"a{action:02}_s{i + 1:02}_e0{i % 5}_v0{view}"] = (i, body(rng, 1 + 3 * i, 20))
    for name, (label, frames) in told.items():
        ucla(tmp_path / "all_sqe", name, label + 1, frames)
    (tmp_path / "val_label.pkl").write_bytes(b"not read")  # lies there in the release
    assert find_reader(tmp_path) == find_reader(tmp_path / "all_sqe") == "nw_ucla"
    clips = ClipSet.load(tmp_path)
    assert (
        clips.names == tuple(told)
        and clips.labels.tolist() == [k for k, _ in told.values()]
        and clips.split.tolist() == [0, 0, 1] * 10
    )
    assert clips.meta["view"].tolist() == [1, 2, 3] * 10 and clips.meta["subject"].tolist() == [
        i // 3 + 1 for i in range(30)
    ]
    assert np.array_equal(
        clips.frames[:, 0], np.concatenate([f for _, f in told.values()]).astype(np.float32)
    )


UCLA = {
    "joints": (
        lambda f, b: ucla(f, "a01_s01_e00_v01", 1, b[:, :19]),
        r"a01_s01_e00_v01.json: frame 0 has shape \[19, 3\], not 20 joints",
    ),
    "joints change": (
        lambda f, b: ucla(f, "a01_s01_e00_v01", 1, b, skeletons=[*b.tolist(), b[0, :19].tolist()]),
        r"frame 5 has shape \[19, 3\]",
    ),
    "no frames": (
        lambda f, b: ucla(f, "a01_s01_e00_v01", 1, b[:0]),
        "skeletons is no list of frames",
    ),
    "not a list": (
        lambda f, b: ucla(f, "a01_s01_e00_v01", 1, b, skeletons=7),
        "skeletons is no list of frames",
    ),
    "null": (
        lambda f, b: ucla(f, "a01_s01_e00_v01", 1, b, skeletons=[[[None, 0, 0]] * 20]),
        r"clip 'a01_s01_e00_v01': frame 0, person 0, joint 0 \(hip_center\): x is nan",
    ),
    "label": (
        lambda f, b: ucla(f, "a01_s01_e00_v01", 2, b),
        "label is 2, but action 1 has label 1",
    ),
    "name": (
        lambda f, b: ucla(f, "a01_s01_e00_v01", 1, b, file_name="a01_s01_e00_v02"),
        "says inside that it is 'a01_s01_e00_v02'",
    ),
    "action": (lambda f, b: ucla(f, "a07_s01_e00_v01", 1, b), "action 7 is none of this set"),
    "view": (lambda f, b: ucla(f, "a01_s01_e00_v09", 1, b), "view 9 is none of this set"),
    "twice": (
        lambda f, b: ucla(f / "copy", "a12_s01_e00_v01", 10, b),
        "clip 'a12_s01_e00_v01': it is there twice",
    ),
    "list": (lambda f, b: dump(f / "a01_s01_e00_v01.json", [1]), "no object with skeletons"),
    "cut off": (
        lambda f, b: (f / "a01_s01_e00_v01.json").write_text('{"file_name": "a01'),
        "a01_s01_e00_v01.json is no readable JSON",
    ),
}


@pytest.mark.parametrize("kind", UCLA)
def test_spoilt_nw_ucla(kind, tmp_path):
    spoil, sentence = UCLA[kind]
    frames = body(np.random.default_rng(0), 5, 20)
    ucla(tmp_path, "a12_s01_e00_v01", 10, frames)
    ClipSet.load(tmp_path)
    spoil(tmp_path, frames)
    refused(tmp_path, sentence)


# ---- Kinder-Gator

JOINTS = [
    f"{j}{axis}"
    for j in (
        "HipCenter Spine ShoulderCenter Head ShoulderLeft ElbowLeft WristLeft HandLeft"
        " ShoulderRight ElbowRight WristRight HandRight HipLeft KneeLeft AnkleLeft FootLeft"
        " HipRight KneeRight AnkleRight FootRight"
    ).split()
    for axis in "XYZ"
]


def gator(folder, subject, order, motion, frames, end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"POSE-p{subject}_{order:02}-{motion}-1469182402284.csv"
    with open(path, "w", newline="") as file:
        w = csv.writer(file, lineterminator=end)
        w.writerow(["Timestamp", *JOINTS, "User-ID", "Action", ""])
        for t, f in enumerate(frames):
            w.writerow([36794471.6016 + 33 * t, *f.ravel().tolist(), subject, motion, ""])
    return path


def test_kinder_gator_comes_back(tmp_path):
    rng, told = np.random.default_rng(0), {}
    for n, subject in enumerate(kinder_gator.ADULTS + kinder_gator.CHILDREN):
        child = subject in kinder_gator.CHILDREN
        for motion in ("Bow", "Throw-a-ball-", "Raise-your-other-hand"):
            frames = body(rng, 2 + n, 20)
            gator(
                tmp_path / ("Children" if child else "Adults"),
                subject,
                n + 1,
                motion,
                frames,
                "\r\n" if n % 2 else "\n",
            )
            told[f"{'child' if child else 'adult'}_{subject}_{motion.strip('-')}"] = (
                subject,
                n + 1,
                motion,
                frames,
            )
    assert find_reader(tmp_path) == "kinder_gator"
    clips = ClipSet.load(tmp_path)
    assert set(clips.names) == set(told) and clips.num_classes == 58
    for i, name in enumerate(clips.names):
        subject, order, motion, frames = told[name]
        assert np.array_equal(clips.clip(i)[:, 0], frames.astype(np.float32))
        assert clips.class_names[clips.labels[i]] == motion.strip("-").replace("-", " ")
        assert (clips.meta["subject"][i], clips.meta["order"][i], clips.meta["is_child"][i]) == (
            subject,
            order,
            subject in kinder_gator.CHILDREN,
        )
    assert sorted(set(clips.meta["subject"][clips.split == 1].tolist())) == [
        169,
        342,
        604,
        644,
        888,
        970,
    ]
    merged = ClipSet.load(tmp_path, "merged")
    assert {merged.class_names[k] for k in merged.labels} == {
        "Bow",
        "Throw a ball",
        "Raise your hand",
    }
    assert {c.class_names[k] for c in [ClipSet.load(tmp_path, "coarse")] for k in c.labels} == {
        "warm-up",
        "mime",
    }
    assert (
        clips.labels.diff().min() >= 0
        and clips.names[0].startswith("adult_565_")
        and clips.names[19].startswith("child_723_")
    )


def edited(path, old, new, count=1):
    path.write_text(path.read_text().replace(old, new, count))


GATOR = {
    "person": (
        lambda p: edited(p, ",565,", ",577,"),
        "User-ID of frame 0 is '577', the file's name says '565'",
    ),
    "motion": (
        lambda p: edited(p, ",Bow,", ",Jump,"),
        "Action of frame 0 is 'Jump', the file's name says 'Bow'",
    ),
    "column": (lambda p: edited(p, "SpineX", "SpineW"), "column 'SpineX' is missing"),
    "word": (
        lambda p: edited(p, p.read_text().splitlines()[3].split(",")[3], "oops"),
        "HipCenterZ of frame 2 is 'oops', no number",
    ),
    "cut off": (
        lambda p: p.write_text(p.read_text()[:-400]),
        (
            r"Adults/POSE-p565_05-Bow-1469182402284.csv: frame 4 has \d+ entries, the first line"
            r" 64; download"
        ),
    ),
    "too many": (
        lambda p: p.write_text(p.read_text() + "1," * 90 + "\n"),
        "frame 5 has 91 entries, the first line 64",
    ),
    "inf": (
        lambda p: edited(p, p.read_text().splitlines()[3].split(",")[3], "inf"),
        r"clip 'adult_565_Bow': frame 2, person 0, joint 0 \(hip_center\): z is inf",
    ),
    "no frame": (
        lambda p: p.write_text(p.read_text().splitlines()[0] + "\n"),
        "clip 'adult_565_Bow': it has no frame",
    ),
    "empty": (
        lambda p: p.write_text(""),
        "POSE-p565_05-Bow-1469182402284.csv: column 'HipCenterX' is missing",
    ),
    "bytes": (
        lambda p: p.write_bytes(b"\xff\xfe\x00\x01" * 99),
        "POSE-p565_05-Bow-1469182402284.csv is no text",
    ),
    "unknown motion": (
        lambda p: p.rename(p.with_name("POSE-p565_05-Yodel-1469182402284.csv")),
        "motion 'Yodel' is none of this set",
    ),
    "unknown person": (
        lambda p: p.rename(p.with_name("POSE-p999_05-Bow-1469182402284.csv")),
        "person 999 is none of this set",
    ),
    "twice": (lambda p: shutil.copy(p, p.parent.parent), "clip 'adult_565_Bow': it is there twice"),
}


@pytest.mark.parametrize("kind", GATOR)
def test_spoilt_kinder_gator(kind, tmp_path):
    spoil, sentence = GATOR[kind]
    path = gator(tmp_path / "Adults", 565, 5, "Bow", body(np.random.default_rng(0), 5, 20))
    ClipSet.load(tmp_path)
    spoil(path)
    refused(tmp_path, sentence)


# ---- skeletons of one's own (the page itself: test_own_skeletons.py)

STICK = {
    "name": "stick",
    "joints": ["hip", "spine", "head"],
    "edges": [[0, 1], [1, 2]],
    "center": 0,
}


def own(folder, skeleton=STICK, **arrays):
    folder.mkdir(exist_ok=True)
    np.savez(folder / "own.npz", **{k: v for k, v in arrays.items() if v is not None})
    dump(folder / "own.skeleton.json", skeleton)
    return folder / "own.npz"


@pytest.mark.parametrize("form", ["lengths", "offsets", "persons", "padded"])
@pytest.mark.parametrize("letters", ["xyz", "xys", "xy"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_own_clips_come_back(form, letters, dtype, tmp_path):
    rng, lengths = np.random.default_rng(0), np.array([4, 1, 7])
    M = 2 if form in ("persons", "padded") else 1
    frames = rng.integers(-50, 50, size=(12, M, 3, len(letters))).astype(dtype)
    frames[2, 0, 1] = 0
    bounds = {"offsets": np.array([0, 4, 5, 12])} if form == "offsets" else {"lengths": lengths}
    keypoints = frames[:, 0] if M == 1 else frames
    if form == "padded":
        keypoints = np.full((3, 9, 2, 3, len(letters)), 9, dtype)
        for k, part, n in zip(keypoints, np.split(frames, [4, 5]), lengths):
            k[:n] = part
    clips = ClipSet.load(
        own(
            tmp_path,
            keypoints=keypoints,
            label=np.array([1, 0, 1]),
            split=np.array([0, 1, 2]),
            coordinates=np.array(letters),
            **bounds,
        )
    )
    assert torch.equal(
        clips.frames, torch.from_numpy(frames.astype(np.float32))
    ) and clips.lengths.tolist() == [4, 1, 7]
    assert (
        clips.meta["coordinates"] == letters
        and clips.split.tolist() == [0, 1, 2]
        and clips.class_names == ("class 0", "class 1")
    )


def test_own_extras(tmp_path):
    more = dict(
        subject=np.array([3, 4, 5]),
        frames=np.array([1.0, 2, 3]),
        there=np.array([0, 1, 1]),
        split_night=np.array([0, -1, 1]),
        coarse=np.array([0, 0, 1]),
        coarse_names=np.array(["a", "b"]),
        photo=np.zeros((9, 9)),
    )
    path = own(
        tmp_path,
        keypoints=np.ones((6, 3, 2)),
        lengths=np.array([2, 2, 2]),
        label=np.array(["up", "down", "up"]),
        name=np.array(["x", "y", "z"]),
        **more,
    )
    clips = ClipSet.load(path)
    assert (
        clips.class_names == ("down", "up")
        and clips.labels.tolist() == [1, 0, 1]
        and clips.names == ("x", "y", "z")
        and "photo" not in clips.meta
    )
    assert all(clips.meta[k].tolist() == v.tolist() for k, v in more.items() if v.shape == (3,))
    assert ClipSet.load(path, "coarse").labels.tolist() == [0, 0, 1]


def test_a_file_that_names_its_joints_is_read_as_before(tmp_path):
    arrays = dict(
        keypoints=np.ones((5, 3, 3), np.float32),
        offsets=np.array([0, 5]),
        label=np.array([0]),
        split=np.array([0]),
        name=np.array(["a"]),
        class_names=np.array(["k"]),
    )
    path = own(
        tmp_path, **arrays, joint_names=np.array(STICK["joints"]), edges=np.array(STICK["edges"])
    )
    assert find_reader(path) == "named" and ClipSet.load(path).skeleton.joints == tuple(
        STICK["joints"]
    )
    assert find_reader(own(tmp_path, **arrays)) == "own_skeletons"


GOOD = dict(
    keypoints=np.ones((6, 3, 2)),
    lengths=np.array([2, 3, 1]),
    label=np.array([0, 1, 0]),
    class_names=np.array(["a", "b"]),
)
OWN = {
    "two bounds": (
        dict(offsets=np.array([0, 2, 5, 6])),
        "there are 'lengths' and 'offsets'; give one of the two",
    ),
    "no bounds": (dict(lengths=None), "array 'lengths' is missing"),
    "offsets begin": (
        dict(lengths=None, offsets=np.array([1, 2, 6])),
        "array 'offsets' has to begin at 0",
    ),
    "offsets fall": (
        dict(lengths=None, offsets=np.array([0, 4, 3, 6])),
        "clip 1 has -1 frames; it has to have between 1 and 6",
    ),
    "offsets end": (
        dict(lengths=None, offsets=np.array([0, 2, 4, 5])),
        "the clips have 5 frames together, but 'keypoints' has 6",
    ),
    "huge lengths": (
        dict(lengths=np.array([2**62, 2**62, 2**62])),
        "clip 0 has 4611686018427387904 frames",
    ),
    "no clip": (dict(lengths=np.array([], int)), "there is no clip in it"),
    "fractions": (
        dict(lengths=np.array([2.0, 3, 1])),
        "array 'lengths' is of type float64; it has to hold whole numbers",
    ),
    "axes": (
        dict(keypoints=np.ones((6, 3))),
        r"array 'keypoints' has shape \[6, 3\]; it has to be \[frames, V, C\]",
    ),
    "one channel": (
        dict(keypoints=np.ones((6, 3, 1))),
        "array 'keypoints' has 1 numbers a joint; give xyz, xy, or xys",
    ),
    "coordinates": (
        dict(coordinates=np.array("zyx")),
        "array 'keypoints' has 2 numbers a joint, 'coordinates' is 'zyx'",
    ),
    "text": (
        dict(keypoints=np.full((6, 3, 2), "x")),
        "clip 'clip_0': frames are of type <U1; give numbers|array 'keypoints' is of type",
    ),
    "complex": (dict(keypoints=np.ones((6, 3, 2), complex)), "frames are of type complex128"),
    "padded lengths": (
        dict(keypoints=np.ones((2, 9, 1, 3, 2))),
        "'lengths' has 3 entries, but 'keypoints' 2 clips",
    ),
    "padded too long": (
        dict(keypoints=np.ones((3, 2, 1, 3, 2))),
        "clip 1 has 3 frames; it has to have between 1 and 2",
    ),
    "padded one person": (
        dict(keypoints=np.ones((3, 9, 3, 2))),
        (
            r"but 'keypoints' has 3; make them agree, or give clips that are filled up as \[N, T,"
            r" M, V, C\]"
        ),
    ),
    "overflow": (
        dict(keypoints=np.full((6, 3, 2), 1e300)),
        "clip 'clip_0': frame 0, person 0, joint 0 .hip.: x is",
    ),
    "label range": (
        dict(label=np.array([0, 1, 2])),
        r"clip 2 \('clip_2'\) has label 2, but class_names has 2 classes",
    ),
    "label gap": (
        dict(label=np.array([0, 10**15, 0]), class_names=None),
        "no clip of class 1, but one of class 1000000000000000",
    ),
    "label float": (dict(label=np.array([0.0, 1, 0])), "array 'label' is of type float64"),
    "pickled": (
        dict(name=np.array(["a", None, "c"], object)),
        "array 'name' holds pickled Python objects, which are never loaded",
    ),
    "split short": (dict(split=np.array([0, 1])), "array 'split' has 2 entries for 3 clips"),
    "class twice": (dict(class_names=np.array(["a", "a"])), "class_names holds 'a' 2 times"),
}


def test_another_skeleton_is_another_source(tmp_path):
    "What was kept or trained with the old bones is not taken for the new ones."
    path = own(tmp_path, **GOOD)
    before, bones = source_checksum(str(path)), open_clips(str(path)).skeleton.edges
    own(tmp_path, STICK | {"edges": [[0, 1], [0, 2]]}, **GOOD)
    assert source_checksum(str(path)) != before and open_clips(str(path)).skeleton.edges != bones


@pytest.mark.parametrize("kind", OWN)
def test_spoilt_own_clips(kind, tmp_path):
    changes, sentence = OWN[kind]
    ClipSet.load(own(tmp_path, **GOOD))
    refused(own(tmp_path, **GOOD | changes), sentence)


SKELETONS = {
    "lacks": ({"name": "stick"}, "own.skeleton.json: skeleton lacks joints, edges, center"),
    "joints": (
        STICK | {"joints": ["hip", "head"], "edges": [[0, 1]]},
        "array 'keypoints' has 3 joints, own.skeleton.json has 2",
    ),
    "edge": (
        STICK | {"edges": [[0, 1], [1, 7]]},
        r"own.skeleton.json: .*edge \(1, 7\) names a joint outside 0..2",
    ),
    "center": (STICK | {"center": 5}, "own.skeleton.json: .*center 5 is outside 0..2"),
    "twice": (
        STICK | {"joints": ["hip", "hip", "head"]},
        "own.skeleton.json: .*two joints are called 'hip'",
    ),
    "a list": ([1], "own.skeleton.json: not a skeleton"),
    "numbers": (STICK | {"joints": 3}, "own.skeleton.json: "),
}


@pytest.mark.parametrize("kind", SKELETONS)
def test_spoilt_skeletons(kind, tmp_path):
    value, sentence = SKELETONS[kind]
    refused(own(tmp_path, value, **GOOD), sentence)
    (tmp_path / "own.skeleton.json").write_text("[" * 200_000)
    refused(tmp_path / "own.npz", "own.skeleton.json is no readable JSON")
    (tmp_path / "own.skeleton.json").unlink()
    refused(tmp_path / "own.npz", "neither own.skeleton.json nor skeleton.json lies beside it")
