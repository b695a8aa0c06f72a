"The speed bench: its record, its files, the plan's use of it, and the command."

import json
import math

import pytest

from mdr_repro.clips.clip_set import DataError
from mdr_repro.measuring import speed
from mdr_repro.study.plan import gather, make_plan, measured_steps, step_network, timed_steps
from mdr_repro.training.run_store import RunStore
from mdr_repro.use.command_line import main


@pytest.fixture(scope="module")
def record():
    found = speed.bench(repeats=2, quick=True)
    return {**found, "device": found["device"].removesuffix(", quick")}


def test_a_record_is_complete(record):
    row = record["shapes"]["small"]
    assert {
        "device",
        "threads",
        "torch",
        "git",
        "when",
        "form",
        "precision",
        "widths",
        "ceilings",
        "speedup",
        "clips_a_second",
    } < set(record)
    assert set(row["train"]) == {"literal", "fast"} and set(row["test"]) == {
        "literal",
        "fast",
        "fused",
    }
    for what in ("train", "test"):
        for form, r in row[what].items():
            assert r["operations"] > 0 and r["bytes"] > 0 and r["seconds"] > 0 and r["rounds"] == 2
            # one shape: its own mean
            assert math.isclose(record["speedup"][what][form], r["speedup"])
    assert 0.8 <= row["train"]["fast"]["operations"] / row["train"]["literal"]["operations"] <= 1.01
    # means before convolutions
    assert row["test"]["fused"]["operations"] < row["test"]["literal"]["operations"]
    assert (
        max(row["errors"]["fast, float64"].values()) < 1e-9
        and row["errors"]["fused, fp32, testing"]["features"] < 1e-4
    )
    json.dumps(record)


def test_benches_of_several_devices_lie_side_by_side(record, tmp_path):
    other = {**record, "device": "NVIDIA H100", "precision": "bf16"}
    paths = [speed.save_bench(r, tmp_path) for r in (record, other)]
    assert (
        paths[1].name == "nvidia-h100-bf16.json" and f"{record['threads']}-threads" in paths[0].name
    )
    assert list(speed.load_benches(tmp_path).values()) == [
        json.loads(p.read_text()) for p in sorted(paths)
    ]
    assert all(
        p.with_suffix(kind).stat().st_size > 1000 for p in paths for kind in (".svg", ".png")
    )
    paths[0].write_text(paths[0].read_text()[:-40])
    with pytest.raises(ValueError, match="damaged; delete it"):
        speed.load_benches(tmp_path)


def test_the_plan_knows_the_steps_of_a_bench(record, tmp_path):
    store = RunStore(tmp_path)
    assert measured_steps(store) == []
    speed.save_bench(record, tmp_path)
    (step,) = measured_steps(store)
    assert (
        timed_steps(store) == []
        and step["train"] == record["shapes"]["small"]["train"]["fast"]["seconds"]
    )
    plan = make_plan(["table_02"], "smoke")
    known = gather(plan, store)
    assert list(known.steps) == [step_network(step)] and known.rates("mdr_gcn")
    speed.save_bench({**record, "device": "another"}, tmp_path)
    assert len(measured_steps(store)) == 2 and list(gather(plan, store).steps) == [
        step_network(step)
    ]
    (tmp_path / "bench" / "steps.json").write_text("[")
    with pytest.raises(DataError, match="damaged"):
        measured_steps(store)


def test_the_command_prints_a_table_and_writes_nothing_when_quick(tmp_path, capsys):
    assert main(["bench", "--quick", "--repeats", "1", "--results-root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert (
        "2x3x16x17x1" in said
        and "fused" in said
        and "clips a second" in said
        and not list(tmp_path.iterdir())
    )


def test_an_interrupted_bench_leaves_no_file(tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "_measure", interrupted)
    assert main(["bench", "--results-root", str(tmp_path)]) == 130
    assert not list(tmp_path.rglob("*")) and "interrupted" in capsys.readouterr().err


def test_turns_are_taken_in_rounds():
    calls = []
    seconds = speed.take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2
    )
    assert calls == ["a", "b"] * 3 and {k: len(v) for k, v in seconds.items()} == {"a": 2, "b": 2}


def test_a_bench_of_the_papers_form_is_the_network_that_profiles_train(record):
    from mdr_repro.study.profiles import get_profile
    from mdr_repro.training.run_spec import Options

    spec = get_profile("paper").spec("fsd10", data_checksum="0" * 64)
    (step,) = speed.bench_steps(
        {**record, "form": "paper", "widths": spec.backbone_options["widths"]}
    )
    assert Options(step["options"]) == spec.backbone_options


def test_the_fast_forms_operations_are_counted_where_bodies_take_turns(monkeypatch):
    import torch

    from mdr_repro.fast import temporal as temporal_block
    from mdr_repro.mdrgcn import literal_form

    net, x = speed.network((2, 3, 16, 17, 1), widths=(16, 32)).train(), torch.randn(2, 3, 16, 17, 1)
    literal = speed.count(lambda: speed.train_step(literal_form(net), x))[0]
    monkeypatch.setattr(temporal_block, "body_pays", lambda *args: True)
    assert 0.85 <= speed.count(lambda: speed.train_step(net, x))[0] / literal <= 1.05
