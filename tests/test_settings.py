"The paper's profile against Section IV.B and against the released code, knob by knob."

from dataclasses import replace

import pytest

from mdr_repro.clips.sources import read_modifiers
from mdr_repro.paper.settings import RELEASE_SETTINGS, STATED_SETTINGS, Setting, unread
from mdr_repro.study.cells import as_the_profile, experiment_cells, released_changes
from mdr_repro.study.profiles import (
    ORIGINS,
    PROFILES,
    get_profile,
    origin_problems,
    rule_origins,
    settings_table,
    slot_settings,
)

PAPER = get_profile("paper")
SLOTS = list(PAPER.slots)
WEIGHTS = {"joint": 0.7, "bone": 0.7, "joint_motion": 0.3, "bone_motion": 0.3}

# Section IV.B, typed from the paper
STATED = {
    "fsd10": dict(
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        epochs=300,
        milestones=(150, 225),
        gamma=0.1,
        batch_size=48,
        num_frames=256,
    ),
    "fsd10_all_frames": dict(
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        epochs=300,
        milestones=(150, 225),
        gamma=0.1,
        batch_size=8,
        num_frames=1500,
    ),
    "finegym99": dict(
        lr=0.1, momentum=0.9, nesterov=True, milestones=(60, 120), gamma=0.1, batch_size=64
    ),
    "ntu60_xsub": dict(
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        epochs=65,
        milestones=(35, 55),
        gamma=0.1,
        batch_size=64,
    ),
}
STATED["ntu60_xview"] = STATED["ntu60_xsub"]

# the release, typed from its files: what the paper leaves open
FSD10 = dict(
    mode="released",
    center="released",
    center_joint="mid_hip",
    move=True,
    rotate=0.0,
    scale=0.0,
    mirror=0.0,
    stretch=False,
    warmup_epochs=5,
    weight_decay=5e-4,
    last_batch="drop",
)
FINEGYM = {
    **FSD10,
    "center_joint": "right_elbow",
    "move": False,
    "weight_decay": 1e-4,
    "epochs": 180,
    "num_frames": 64,
}
NTU = dict(
    mode="crop_resize",
    p_interval=(0.5, 1.0),
    min_crop=64,
    test_p=0.95,
    num_frames=64,
    center="first",
    move=False,
    rotate=0.3,
    rotate_axis="all",
    scale=0.0,
    mirror=0.0,
    stretch=False,
    warmup_epochs=5,
    weight_decay=4e-4,
    last_batch="drop",
)
SHARED = {"rdl.own_optimizer": True, "rdl.centers_lr": 0.1, "fusion": WEIGHTS, "evaluate_every": 1}
RELEASE = {
    "fsd10": FSD10,
    "fsd10_all_frames": FSD10,
    "finegym99": FINEGYM,
    "ntu60_xsub": NTU,
    "ntu60_xview": NTU,
}


@pytest.mark.parametrize("name", STATED)
def test_the_profile_is_what_the_paper_says_and_else_what_the_release_does(name):
    values = slot_settings(PAPER, name)
    origin = {knob: text.partition(":")[0] for knob, text in PAPER.slot(name).origin.items()}
    for knob, value in STATED[name].items():
        assert (values[knob], origin[knob], STATED_SETTINGS[name][knob].value) == (
            value,
            "paper",
            value,
        ), knob
    for knob, value in {**RELEASE[name], **SHARED}.items():
        assert (values[knob], origin[knob], RELEASE_SETTINGS[name][knob].value) == (
            value,
            "release",
            value,
        ), knob
    others = set(values) - set(STATED[name]) - set(RELEASE[name]) - set(SHARED)
    assert {
        k: v for k, v in values.items() if origin[k] == "ours" and k in others and "." not in k
    } == {
        "seeds": 5,
        "comparison_seeds": 3,
        "centers_lr": None,
        "reported": "last epoch",
        "test_batch": values["batch_size"],
    }
    assert all(origin[k] != "release" or k in ("modalities",) for k in others), "typed above"
    assert values["rdl.weights"] == (1, None, None) and origin["rdl.weights"] == "paper"


@pytest.mark.parametrize("name", SLOTS)
def test_a_changed_table_is_noticed(name, monkeypatch):
    """Whatever the paper or the release is said to have: another value there, and the profile's
    origins are no longer true."""
    assert origin_problems(PAPER, name) == []
    for kind, table in (("paper", STATED_SETTINGS), ("release", RELEASE_SETTINGS)):
        knobs = [k for k, text in PAPER.slot(name).origin.items() if text.startswith(f"{kind}:")]
        assert len(knobs) > 8
        for knob in knobs:
            with monkeypatch.context() as m:
                m.setitem(table, name, {**table[name], knob: Setting("changed", "", "")})
                found = origin_problems(PAPER, name)
                assert any(
                    f" {knob} = " in line and f"the {kind} has 'changed'" in line for line in found
                ), (knob, found)
                m.setitem(table, name, {k: v for k, v in table[name].items() if k != knob})
                assert origin_problems(PAPER, name), knob


OTHER = dict(
    epochs=7,
    batch_size=5,
    lr=0.2,
    gamma=0.2,
    milestones=(3,),
    warmup_epochs=1,
    momentum=0.8,
    nesterov=False,
    weight_decay=1e-3,
    evaluate_every=2,
    last_batch="join",
    centers_lr=0.3,
    num_frames=32,
    mode="uniform",
    p_interval=(0.4, 1.0),
    min_crop=32,
    test_p=0.9,
    center="frame",
    rotate=0.1,
    move=None,
    scale=0.1,
    mirror=0.5,
)


@pytest.mark.parametrize("name", SLOTS)
@pytest.mark.parametrize("knob", OTHER)
def test_a_changed_value_is_noticed(name, knob):
    slot, value = PAPER.slot(name), OTHER[knob]
    part = "schedule" if hasattr(slot.schedule, knob) else "sampling"
    if knob == "move":
        value = not slot.sampling.move
    changed = replace(slot, **{part: replace(getattr(slot, part), **{knob: value})})
    found = origin_problems(replace(PAPER, slots={**PAPER.slots, name: changed}), name)
    chosen = slot.origin[knob].startswith("ours: ") and knob != "speed"
    assert any(f" {knob} = " in line for line in found) != chosen, (slot.origin[knob], found)


@pytest.mark.parametrize("name", SLOTS)
def test_a_changed_origin_is_noticed(name):
    slot = PAPER.slot(name)
    for knob, text in slot.origin.items():
        kind = text.partition(":")[0]
        for other in (
            f"{next(k for k in ORIGINS if k != kind)}: {text.partition(': ')[2]}",
            text + ".",
            "Section IV.B",
            "",
        ):
            changed = replace(slot, origin={**slot.origin, knob: other})
            assert origin_problems(replace(PAPER, slots={**PAPER.slots, name: changed}), name), (
                knob,
                other,
            )


@pytest.mark.parametrize("profile", PROFILES)
def test_every_origin_of_every_profile_is_true(profile):
    for name, slot in PROFILES[profile].slots.items():
        assert origin_problems(PROFILES[profile], name) == []
        assert {text.partition(":")[0] for text in slot.origin.values()} <= set(ORIGINS)


def test_a_profile_of_ones_own_is_held_to_its_origins():
    "Another profile need not follow the rule, but what it says of itself has to be so."
    slot = replace(
        get_profile("replica").slot("finegym99"),
        origin={"lr": "paper: IV.B", "warmup_epochs": "ours: short"},
    )
    own = replace(get_profile("replica"), name="own", slots={"finegym99": slot})
    wrong = [
        line.partition(" = ")[0].rpartition(" ")[2] for line in origin_problems(own, "finegym99")
    ]
    assert "lr" not in wrong and "warmup_epochs" not in wrong and "epochs" in wrong
    worse = replace(
        own,
        slots={
            "finegym99": replace(slot, origin={**slot.origin, "warmup_epochs": "release: config"})
        },
    )
    assert any(
        "warmup_epochs = 3: the release has 5" in line
        for line in origin_problems(worse, "finegym99")
    )


def test_only_ntu_is_cropped_and_every_set_drops_its_last_batch():
    assert {name: slot.sampling.mode for name, slot in PAPER.slots.items()} == {
        **dict.fromkeys(("fsd10", "fsd10_all_frames", "finegym99", "short"), "released"),
        **dict.fromkeys(("ntu60_xsub", "ntu60_xview"), "crop_resize"),
    }
    assert {slot.schedule.last_batch for slot in PAPER.slots.values()} == {"drop"}
    assert {
        name: read_modifiers(slot.data)[1].get("center")
        for name, slot in PAPER.slots.items()
        if slot.sampling.center == "released"
    } == {
        "fsd10": "mid_hip",
        "fsd10_all_frames": "mid_hip",
        "short": "mid_hip",
        "finegym99": "right_elbow",
    }


def test_the_short_protocol_is_a_tenth_and_says_so():
    short, full = (slot_settings(PAPER, name) for name in ("short", "fsd10"))
    assert {k: (short[k], full[k]) for k in full if short[k] != full[k]} == {
        "epochs": (30, 300),
        "milestones": ((15, 22), (150, 225)),
        "warmup_epochs": (1, 5),
    }
    assert {k for k, text in rule_origins(PAPER, "short").items() if "a tenth" in text} == {
        "epochs",
        "milestones",
        "warmup_epochs",
    }


def test_centers_have_an_optimizer_of_their_own_in_the_papers_profile_alone():
    options = {
        name: profile.spec("fsd10", data_checksum="0" * 64).objective_options
        for name, profile in PROFILES.items()
        if "fsd10" in profile.slots
    }
    assert set(options) == {"smoke", "replica", "paper"} and set(PROFILES) - set(options) == {
        "validation"
    }
    assert options["paper"] == {
        "weights": (1, None, None),
        "own_optimizer": True,
        "centers_lr": 0.1,
    }
    assert options["smoke"] == options["replica"] == {"weights": (1, None, None)}
    assert PAPER.spec("fsd10", objective="center", data_checksum="0" * 64).objective_options == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_table_shows_all_three_side_by_side(profile):
    assert set(PROFILES[profile].slots) == (
        {"finegym99", "ntu60_xsub", "ntu60_xview"} if profile == "validation" else set(SLOTS)
    )
    for name in PROFILES[profile].slots:
        table = settings_table(PROFILES[profile], name)
        assert list(table.columns) == ["paper", "release", "ours", "origin"]
        shown = set(slot_settings(PROFILES[profile], name)) - set(
            unread(PROFILES[profile].slot(name).sampling)
        )
        assert shown <= set(table.index) and not table.isna().any().any()
        assert (
            table.loc["lr", ["paper", "release"]].tolist() == ["0.1", "0.1"]
            and table.loc["rdl.weights", "release"] == "1, 0.01, 0.01"
        )


def test_weights_are_of_modalities_and_above_zero():
    for wrong in ({"joints": 1.0}, {"joint": 0.0}, {"bone": -1.0}):
        with pytest.raises(
            ValueError,
            match=(
                "profile smoke: fusion gives .*; give joint, bone, joint_motion, bone_motion"
                " weights above 0"
            ),
        ):
            replace(get_profile("smoke"), fusion=wrong)
    assert {p.name: p.fusion_text for p in PROFILES.values()} == {
        "smoke": "joint 1",
        "replica": "joint 1, bone 1",
        "validation": "joint 1, bone 1",
        "paper": "joint 0.7, bone 0.7, joint motion 0.3, bone motion 0.3",
    }


@pytest.mark.parametrize(
    "table, column",
    [("table_09", "Accuracy(%)"), ("table_10", "Fused(%)"), ("table_11", "X-sub(%)")],
)
def test_streams_of_a_system_are_weighed_by_modality(table, column):
    weights = {
        c.row: c.weights(PAPER) for c in experiment_cells(table, PAPER) if c.column == column
    }
    assert weights["MDR-GCN"] == weights["ST-GCN"] == [0.7, 0.7, 0.3, 0.3]
    assert weights.get("PoseC3D", [1.0, 1.0]) == [1.0, 1.0]
    for profile in ("smoke", "replica"):
        assert {
            w for c in experiment_cells(table, profile) for w in c.weights(get_profile(profile))
        } == {1.0}


def test_all_of_the_release_is_all_of_it():
    """In the paper's profile that row trains as the release's own configuration of FineGym99 does,
    knob by knob."""
    cells = {(c.row, c.column): c for c in experiment_cells("released_code", PAPER)}
    spec = PAPER.spec(
        "finegym99", data_checksum="0" * 64, **cells["all of the release", "Accuracy(%)"].changes
    )
    release = {
        **FINEGYM,
        "nesterov": True,
        "batch_size": 64,
        "epochs": 180,
        "milestones": (60, 120),
        "lr": 0.1,
        "gamma": 0.1,
        "momentum": 0.9,
    }
    center_joint = release.pop("center_joint")
    for knob, value in release.items():
        assert (
            getattr(spec.schedule if hasattr(spec.schedule, knob) else spec.sampling, knob) == value
        ), knob
    assert read_modifiers(spec.data)[1] == {"skeleton": "released", "center": center_joint}
    assert spec.objective_options == {
        "form": "released",
        "weights": (1, 0.01, 0.01),
        "own_optimizer": True,
        "centers_lr": 0.1,
    }
    assert spec.backbone_options["form"] == "released"
    assert cells["all of the release", "Fused(%)"].weights(PAPER) == [0.7, 0.7, 0.3, 0.3]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_row_of_the_released_code_changes_what_its_name_says_or_is_the_first_run(profile):
    p, first = PROFILES[profile], None
    same = as_the_profile(p)
    for cell in experiment_cells("released_code", p):
        if cell.column != "Accuracy(%)":
            continue
        spec = p.spec(cell.slot, data_checksum="0" * 64, **cell.changes)
        first = first or spec
        parts = {
            "source": spec.data != first.data,
            "backbone_options": spec.backbone_options != first.backbone_options,
            "objective_options": spec.objective_options != first.objective_options,
            "sampling": spec.sampling != first.sampling,
            "schedule": spec.schedule != first.schedule,
        }
        changed = {part for part, differs in parts.items() if differs}
        assert (
            (spec.id == first.id)
            == (not changed)
            == (cell.row == "as the paper" or (cell.row, cell.column) in same)
        ), cell.row
        if cell.row not in ("as the paper", "all of the release"):
            assert changed <= set(released_changes(p.slot("finegym99"))[cell.row]), cell.row
