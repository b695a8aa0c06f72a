"Every loss: its terms are computed once a step and add up to what is trained."

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import tiny_clips

from mdr_repro import rdl, recognizer
from mdr_repro.clips.sampling import Sampling
from mdr_repro.losses import (
    angular_margins,
    build_objective,
    center,
    check_objective,
    information_bottleneck,
    objectives,
)
from mdr_repro.models import build_backbone
from mdr_repro.recognizer import Recognizer, Softmax
from mdr_repro.skeleton import get_skeleton
from mdr_repro.training.run_spec import RunSpec, Schedule
from mdr_repro.training.trainer import Training, step_loss, train_epoch

LOSSES = {
    "softmax": ("softmax", {}),
    "softmax, summed": ("softmax", {"sum_over_batch": True}),
    "center": ("center", {"weight": 0.1}),
    "center, weight 0": ("center", {"weight": 0.0}),
    "center, gradient": ("center", {"weight": 0.1, "update": "gradient"}),
    "sphereface": ("sphereface", {}),
    "lmcl": ("lmcl", {"scale": 8.0}),
    "arcface": ("arcface", {"scale": 8.0}),
    "lace": ("lace", {}),
    "information_bottleneck": ("information_bottleneck", {"weights": (0.3, 0.7)}),
    "information_bottleneck, one term": ("information_bottleneck", {"weights": (0, 0.7)}),
    "rdl": ("rdl", {}),
    "rdl, two terms": ("rdl", {"weights": (1, None, 0)}),
    "rdl, no term": ("rdl", {"weights": (0, 0, 0)}),
    "rdl, released": ("rdl", {"form": "released"}),
}
every_loss = pytest.mark.parametrize("name, options", LOSSES.values(), ids=list(LOSSES))
some_seeds = settings(max_examples=5, derandomize=True, deadline=None, database=None)


def drawn(work):
    "With the same random numbers at every call."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return work()


def a_batch(name, options, seed, N=9, K=4, D=6):
    "An objective in training mode, features and labels, in double precision."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_objective(name, K, D, **options).double().train()
        return (
            net,
            torch.randn(N, D, dtype=torch.float64, requires_grad=True),
            torch.randint(K, (N,)),
        )


def in_training(name, options, folder, **schedule):
    spec = RunSpec(
        "tiny",
        "checksum",
        Schedule(epochs=2, batch_size=16, lr=0.01, **schedule),
        backbone="test_dropped",
        objective=name,
        objective_options=options,
        sampling=Sampling(num_frames=8),
    )
    return Training(spec, tiny_clips(), folder, "cpu")


def test_all_losses_of_the_comparison_are_here():
    assert {name for name, _ in LOSSES.values()} == {
        n for n in objectives if not n.startswith("test_")
    }


@every_loss
@pytest.mark.parametrize("last_batch, steps", [("keep", 3), ("join", 2)])
def test_one_evaluation_a_step_and_what_is_logged_is_what_was_trained(
    tmp_path, monkeypatch, name, options, last_batch, steps
):
    run, counts, seen, check = (
        in_training(name, options, tmp_path, last_batch=last_batch),
        Counter(),
        [],
        recognizer.check_labels,
    )
    objective = run.recognizer.objective
    terms = objective.terms

    def checked(labels, num_classes):
        counts["check_labels"] += 1
        return check(labels, num_classes)

    def once(features, labels):
        counts["terms"] += 1
        found = terms(features, labels)
        seen.append((len(labels), {k: v.item() for k, v in found.items()}))
        return found

    for module in (recognizer, rdl, center, angular_margins, information_bottleneck):
        monkeypatch.setattr(module, "check_labels", checked)
    monkeypatch.setattr(objective, "terms", once)
    row = train_epoch(run)
    assert counts == {"terms": steps, "check_labels": steps} and objective.training
    clips = sum(n for n, _ in seen)
    assert {k for k in row if k.startswith("loss_")} == {f"loss_{k}" for k in seen[0][1]}
    for k in seen[0][1]:
        assert row[f"loss_{k}"] == pytest.approx(
            sum(n * values[k] for n, values in seen) / clips, rel=1e-5, abs=1e-6
        )
    total = sum(
        n * sum(objective.term_weights(n).get(k, 1) * v for k, v in values.items())
        for n, values in seen
    )
    assert row["loss"] == pytest.approx(total / clips, rel=1e-5)


@pytest.mark.parametrize("backbone", ["mdr_gcn", "as_gcn"])
def test_one_step_logs_the_networks_own_terms_with_the_objectives(backbone):
    torch.manual_seed(0)
    net = build_backbone(
        backbone,
        get_skeleton("coco17"),
        3,
        1,
        **({"widths": (8, 8)} if backbone == "mdr_gcn" else {"width": 1 / 16}),
    )
    net = Recognizer(net, build_objective("rdl", 3, net.embedding_dim)).train()
    x, y = torch.randn(4, 3, 16, 17, 1), torch.tensor([0, 1, 2, 0])
    loss, features, terms = drawn(lambda: step_loss(net, x, y))
    weights, own = net.objective.term_weights(4), set(terms) - {"softmax", "a_in", "a_out", "norm"}
    assert bool(own) == (backbone == "as_gcn") and features.shape == (
        4,
        net.objective.embedding_dim,
    )
    assert loss.item() == pytest.approx(
        sum(weights.get(k, 1) * v.item() for k, v in terms.items()), rel=1e-5
    )
    assert loss.item() == pytest.approx(drawn(lambda: net.loss(x, y)).item(), rel=1e-5)


@every_loss
@given(seed=st.integers(0, 2**20))
@some_seeds
def test_the_gradient_is_that_of_the_weighted_terms(name, options, seed):
    net, x, y = a_batch(name, options, seed)
    wanted = [x, *net.parameters()]
    whole = torch.autograd.grad(drawn(lambda: net(x, y)), wanted, allow_unused=True)
    parts = [torch.zeros_like(p) for p in wanted]
    weights = net.term_weights(len(x))
    for k in drawn(lambda: net.terms(x, y)):
        if weights.get(k, 1) == 0:
            continue
        term = drawn(lambda: net.terms(x, y))[k]
        for part, g in zip(parts, torch.autograd.grad(term, wanted, allow_unused=True)):
            if g is not None:
                part += weights.get(k, 1) * g
    for p, g in zip(parts, whole):
        assert torch.allclose(p, torch.zeros_like(p) if g is None else g, rtol=1e-9, atol=1e-12)


@every_loss
@given(seed=st.integers(0, 2**20))
@some_seeds
def test_the_gradient_is_the_slope_of_the_loss(name, options, seed):
    """Central differences along a random direction of the features and, one by one, of every
    parameter."""
    net, x, y = a_batch(name, options, seed)

    def loss():
        return drawn(lambda: net(x, y))

    g = torch.Generator().manual_seed(seed)
    for part, p in [("features", x), *net.named_parameters()]:
        if part == "centers" and getattr(net, "update", "") == "wen":
            continue  # these follow Eq. 4, no slope
        (slope,) = torch.autograd.grad(loss(), p, allow_unused=True)
        way, h = torch.randn(p.shape, generator=g, dtype=torch.float64), 1e-6
        p.data += h * way
        up = loss().item()
        p.data -= 2 * h * way
        down = loss().item()
        p.data += h * way
        expected = 0.0 if slope is None else (slope * way).sum().item()
        assert (up - down) / (2 * h) == pytest.approx(
            expected, rel=1e-5, abs=1e-6 * (1 + abs(up))
        ), part


@given(seed=st.integers(0, 2**20), weight=st.sampled_from([0.0, 1e-4, 0.5, 30.0]))
@some_seeds
def test_the_centers_of_center_loss_follow_equation_4_whatever_the_weight(seed, weight):
    net, x, y = a_batch("center", {"weight": weight}, seed)
    (moved,) = torch.autograd.grad(net(x, y), net.centers)
    for k, c in enumerate(net.centers.detach()):
        mine = x.detach()[y == k]
        assert torch.allclose(moved[k], (len(mine) * c - mine.sum(0)) / (1 + len(mine)), atol=1e-12)


@pytest.mark.parametrize(
    "name, options, off",
    [
        ("center", {"weight": 0.0}, "center"),
        ("rdl", {"weights": (1, None, 0)}, "norm"),
        ("rdl", {"weights": (0, None, None)}, "a_in"),
        ("rdl", {"weights": (1, 0, 0), "form": "released"}, "a_out"),
        ("information_bottleneck", {"weights": (0, 0.1)}, "marginal"),
    ],
)
def test_a_term_of_weight_0_is_logged_and_enters_neither_loss_nor_gradient(name, options, off):
    net, x, y = a_batch(name, options, 0)
    terms = drawn(lambda: net.terms(x, y))
    poison = torch.zeros((), dtype=torch.float64, requires_grad=True)
    spoilt = {**terms, off: terms[off] + (0 * poison) / (0 * poison)}
    assert spoilt[off].isnan()
    loss = net.total(spoilt, len(x))
    assert loss == drawn(lambda: net(x, y))
    assert torch.autograd.grad(loss, [x, poison], allow_unused=True)[1] is None
    loss = net.total(drawn(lambda: {**net.terms(x, y), off: poison / 0}), len(x))
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_an_objective_cannot_train_on_something_that_its_terms_do_not_say():
    with pytest.raises(TypeError, match="Mine defines forward: define terms and term_weights"):

        class Mine(Softmax):
            def forward(self, features, labels):
                return features.sum()

    class Misnamed(Softmax):
        def term_weights(self, num_clips):
            return {"sofmtax": 0.5}

    with pytest.raises(
        ValueError, match="a weight for 'sofmtax', which is no term; known: softmax"
    ):
        Misnamed(3, 2)(torch.zeros(1, 2), torch.tensor([0]))

    class Doubled(Softmax):
        def total(self, terms, num_clips):
            return 2 * super().total(terms, num_clips)

    with pytest.raises(AssertionError, match="the weighted terms do not add up to the loss"):
        check_objective(Doubled(5, 8))
