"The fast form of a network is the literal one: outputs, gradients, running statistics."

import copy
from statistics import median

import pytest
import torch
from torch import nn

from mdr_repro.mdrgcn import MDRGCN, literal_form
from mdr_repro.skeleton import Skeleton, get_skeleton

BODY = Skeleton(
    "stick",
    ("hip", "chest", "head", "left_hand", "right_hand"),
    ((0, 1), (1, 2), (1, 3), (1, 4)),
    0,
)
SETTINGS = [
    dict(),
    dict(form="released"),
    dict(form="released", pairwise="difference"),
    dict(pairwise="difference", activation="hardswish"),
    dict(shared_alpha=True),
    dict(product="rows"),
    dict(attention="none"),
    dict(attention="none", form="released"),
    dict(attention="sa_gc"),
    dict(attention="st_joint_att"),
    dict(attention="st_joint_att", form="released"),
    dict(activation="sigmoid"),
    dict(activation="hardswish"),
    dict(temporal_kernels=1),
    dict(temporal_kernels=3),
    dict(temporal="branches"),
    dict(temporal="branches", form="released"),
    dict(reduction="fixed"),
    dict(reduction=4, temporal_kernels=3, form="released"),
]


def shaken(net, seed=0):
    "Weights, scales, alpha, graphs and running statistics away from where they start."
    g = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for a in (m.weight.data, m.running_var):
                a.copy_(torch.rand(a.shape, generator=g) + 0.5)
            for a in (m.bias.data, m.running_mean):
                a.copy_(0.3 * torch.randn(a.shape, generator=g))
    for name, p in net.named_parameters():
        if name.endswith(("bias", "alpha", "graph.A")):
            p.data.add_(0.3 * torch.randn(p.shape, generator=g))
    return net


def mdr_gcn(persons=2, widths=(8, 8, 16), body=BODY, seed=0, **options):
    torch.manual_seed(seed)
    return shaken(MDRGCN(body, num_persons=persons, widths=widths, **options), seed)


def results(net, x, probe):
    "Features, and the gradients of the input and of every parameter."
    x = x.clone().requires_grad_()
    y = net(x)
    names, leaves = zip(("x", x), *net.named_parameters())
    return {
        "features": y.detach(),
        **dict(zip(names, torch.autograd.grad((y * probe).sum(), leaves))),
    }


def check_equal(a, b):
    """To 1e-9 of the largest gradient of its kind (a bias before a normalisation has none but for
    rounding)."""
    assert a.keys() == b.keys()
    high = max(g.abs().max() for g in b.values())
    for name in a:
        assert (a[name] - b[name]).abs().max() <= 1e-9 * max(b[name].abs().max(), 1e-3 * high), name


def check_forms(net, x):
    net = net.double()
    literal, x = literal_form(net), x.double()
    probe = torch.randn(len(x), net.embedding_dim).double()
    for mode in (True, False, True):
        net.train(mode), literal.train(mode)
        check_equal(results(net, x, probe), results(literal, x, probe))
        state = literal.state_dict()
        assert list(state) == list(net.state_dict())
        for key, a in net.state_dict().items():
            assert torch.allclose(a, state[key], rtol=1e-12, atol=1e-12), key


@pytest.mark.parametrize(
    "options", SETTINGS, ids=lambda o: ", ".join(f"{k}={v}" for k, v in o.items()) or "as the paper"
)
def test_both_forms_of_mdr_gcn_are_one_function(options):
    for frames in (7, 1):
        check_forms(mdr_gcn(**options), torch.randn(3, 3, frames, 5, 2))


def test_a_literal_form_is_literal_and_a_copy():
    net = mdr_gcn()
    literal, called = literal_form(net), []
    for form in (net, literal):
        seen = []
        for name in ("features.0.conv_V", "spatial.2.W_S"):
            form.layers[1].gcb.graph.get_submodule(name).register_forward_hook(
                lambda m, i, o: seen.append(m)
            )
        form.layers[1].tcb.scales[0].branches[0].register_forward_hook(
            lambda m, i, o: seen.append(m)
        )
        form(torch.randn(2, 3, 6, 5, 2))
        called.append(len(seen))
    assert called == [0, 3]  # hooks inside fire in the literal form only
    with torch.no_grad():
        literal.layers[0].gcb.graph.A.zero_()
    assert net.layers[0].gcb.graph.A.abs().max() > 0
    assert literal_form(literal)(torch.ones(2, 3, 6, 5, 2)).isfinite().all()


def test_five_training_steps_leave_the_same_weights():
    net, x = mdr_gcn(seed=3).double().train(), torch.randn(4, 3, 9, 5, 2).double()
    literal = literal_form(net)
    for form in (net, literal):
        optimizer = torch.optim.SGD(form.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        for _ in range(5):
            optimizer.zero_grad()
            form(x).square().mean().backward()
            optimizer.step()
    state = literal.state_dict()
    for key, a in net.state_dict().items():
        assert torch.allclose(a, state[key], rtol=1e-7, atol=1e-8), key


def test_training_is_the_same_to_the_bit_when_repeated():
    def train():
        net = mdr_gcn(body=get_skeleton("kinect20"), persons=1).train()
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
        for _ in range(4):
            optimizer.zero_grad()
            net(torch.randn(6, 3, 12, 20, 1)).square().mean().backward()
            optimizer.step()
        return net.state_dict()

    first, second = train(), train()
    for key, a in first.items():
        assert torch.equal(a, second[key]), key


def float32_error(net, exact, x, probe):
    "Relative error of features and of all gradients together."
    found, true = (
        results(copy.deepcopy(net), x, probe),
        results(copy.deepcopy(exact), x.double(), probe.double()),
    )

    def apart(names):
        return (
            torch.cat([(found[n].double() - true[n]).flatten() for n in names]).norm()
            / torch.cat([true[n].flatten() for n in names]).norm()
        )

    return apart(["features"]), apart([n for n in true if n != "features"])


@pytest.mark.parametrize("form", ["paper", "released"])
def test_float32_is_as_accurate_as_in_the_literal_form(form):
    errors = []
    for seed in range(5):
        net = mdr_gcn(1, (16, 32), get_skeleton("coco17"), seed, form=form).train()
        x, probe, exact = (
            torch.randn(6, 3, 12, 17, 1),
            torch.randn(6, 32),
            copy.deepcopy(literal_form(net)).double(),
        )
        errors.append(
            [
                *float32_error(net, exact, x, probe),
                *float32_error(literal_form(net), exact, x, probe),
            ]
        )
    features, gradients, literal_features, literal_gradients = (
        median(float(e) for e in column) for column in zip(*errors)
    )
    assert features <= 1.5 * literal_features and gradients <= 1.5 * literal_gradients, (
        features,
        literal_features,
        gradients,
        literal_gradients,
    )


# one body at a time: mdr_repro.fast


@pytest.fixture
def bodies(monkeypatch):
    "Every layer that can be goes body by body, however small."
    from mdr_repro.fast import temporal as temporal_block
    from mdr_repro.models import ctr_gcn

    turns = []

    def pays(x, channels, subsets):
        turns.append(channels)
        return True

    for module in (temporal_block, ctr_gcn):
        monkeypatch.setattr(module, "body_pays", pays)
    return turns


@pytest.mark.parametrize(
    "options",
    [o for o in SETTINGS if o.get("attention") not in ("sa_gc", "st_joint_att")],
    ids=lambda o: ", ".join(f"{k}={v}" for k, v in o.items()) or "as the paper",
)
def test_one_body_at_a_time_is_the_same_function(options, bodies):
    for frames in (7, 2):
        check_forms(mdr_gcn(**options), torch.randn(3, 3, frames, 5, 2))
    assert bodies


def trained(net, x, steps=20):
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-3
    )
    target = torch.randn(len(x), net.embedding_dim)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("form", ["paper", "released"])
def test_all_forms_are_one_function_on_trained_weights(form, bodies):
    torch.manual_seed(0)
    x = torch.randn(6, 3, 12, 17, 1)
    net = trained(MDRGCN(get_skeleton("coco17"), widths=(16, 16, 32), form=form).train(), x)
    assert all(layer.gcb.graph.alpha.abs().min() > 1e-6 for layer in net.layers), (
        "alpha has left zero"
    )
    check_forms(net, x)
    net = net.double().eval()
    expected, found = literal_form(net)(x.double()), net.fuse()(x.double())
    assert (expected - found).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("form", ["paper", "released"])
def test_float32_one_body_at_a_time_is_as_accurate_as_in_the_literal_form(form, bodies):
    test_float32_is_as_accurate_as_in_the_literal_form(form)
    assert bodies


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(form="released"),
        dict(attention="none"),
        dict(temporal_kernels=3),
        dict(temporal="branches"),
        dict(activation="sigmoid", pairwise="difference"),
        dict(product="rows"),
    ],
)
def test_the_fused_network_is_the_literal_one_in_testing(options):
    errors = []
    for seed in range(5):
        net, x = mdr_gcn(seed=seed, **options).eval(), torch.randn(4, 3, 9, 5, 2)
        exact = copy.deepcopy(literal_form(net)).double()(x.double()).detach()
        with torch.no_grad():
            errors.append(
                [
                    float((form(x).double() - exact).norm() / exact.norm())
                    for form in (net.fuse(), literal_form(net))
                ]
            )
        assert (net.double().fuse()(x.double()) - exact).abs().max() <= 1e-9 * exact.abs().max()
    fused, literal = (median(column) for column in zip(*errors))
    assert fused <= 1.5 * literal, (fused, literal)


def test_a_fused_network_stands_by_itself():
    net = mdr_gcn().eval()
    fused, x = net.fuse(), torch.randn(2, 3, 6, 5, 2)
    before = fused(x)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert torch.equal(fused(x), before) and not any(p.requires_grad for p in fused.parameters())
    with pytest.raises(ValueError, match="cannot be trained"):
        fused.train()
    with pytest.raises(ValueError, match="eval"):
        mdr_gcn().train().fuse()
    for attention in ("sa_gc", "st_joint_att"):
        with pytest.raises(ValueError, match="cannot be fused"):
            mdr_gcn(attention=attention).eval().fuse()
    with pytest.raises(ValueError, match="does not fit"):
        fused(torch.randn(2, 3, 6, 4, 2))


def test_what_cannot_go_body_by_body_does_not(bodies):
    from mdr_repro.fast.temporal import suits

    layer, x = mdr_gcn().layers[1].train(), torch.randn(2, 8, 6, 5)
    assert suits(layer, x)
    assert not suits(layer.eval(), x)
    layer.train().gcb.norm.eval()
    assert not suits(layer, x)  # part of it has its statistics fixed
    assert not suits(literal_form(layer.train()), x)
    handle = layer.gcb.register_forward_hook(lambda *a: None)
    assert not suits(layer, x)
    handle.remove()
    assert suits(layer, x)
    layer.tcb.scales[0].branches[0][1].momentum = None
    assert not suits(layer, x)
    for attention in ("sa_gc", "st_joint_att"):
        assert not suits(mdr_gcn(attention=attention).layers[1].train(), x)


def test_small_bodies_autocast_and_other_devices_go_joined():
    from mdr_repro.fast.temporal import body_pays

    large = torch.empty(1, 64, 64, 17)
    assert body_pays(large, 64, 3) and body_pays(large.double(), 64, 3)
    assert not body_pays(torch.empty(1, 8, 8, 17), 8, 3)
    assert not body_pays(large.to("meta"), 64, 3) and not body_pays(large.bfloat16(), 64, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert not body_pays(large, 64, 3)


def test_gradients_of_gradients_are_refused_body_by_body(bodies):
    net, x = mdr_gcn().train(), torch.randn(2, 3, 6, 5, 2, requires_grad=True)
    (g,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()
    (g,) = torch.autograd.grad(literal_form(net)(x).square().sum(), x, create_graph=True)
    g.sum().backward()


def test_body_by_body_is_the_same_to_the_bit_when_repeated(bodies):
    test_training_is_the_same_to_the_bit_when_repeated()


@pytest.mark.parametrize("options", [dict(), dict(width=1 / 8, num_persons=2)])
def test_ctr_gcn_body_by_body_is_the_literal_one(options, bodies):
    from mdr_repro.models import build_backbone

    persons = options.get("num_persons", 1)
    net = build_backbone("ctr_gcn", get_skeleton("ntu25"), **{"width": 1 / 16, **options})
    check_forms(shaken(net), torch.randn(3, 3, 9, 25, persons))
    assert bodies


def test_evaluation_fuses_large_networks_and_scores_the_same(monkeypatch):
    from mdr_repro.clips.sampling import Sampling
    from mdr_repro.clips.synthetic_clips import synthetic_clips
    from mdr_repro.fast import folded as inference
    from mdr_repro.recognizer import Recognizer, Softmax
    from mdr_repro.training.evaluation import evaluate

    clips = synthetic_clips(num_clips=30, num_classes=3, skeleton="coco17", frames=(50, 80), seed=0)
    net = shaken(MDRGCN(clips.skeleton, clips.in_channels, clips.num_persons, widths=(8, 16)))
    recognizer, sampling, made = Recognizer(net, Softmax(3, 16)), Sampling(num_frames=16), []
    joined = evaluate(recognizer, clips, "test", sampling, 8).scores
    monkeypatch.setattr(
        inference,
        "body_pays",
        lambda x, *sizes: made.append(len(x)) or not torch.is_autocast_enabled("cpu"),
    )
    fused = evaluate(recognizer, clips, "test", sampling, 8).scores
    assert (
        made == [8]
        and abs(fused - joined).max() <= 1e-4 * abs(joined).max()
        and (fused != joined).any()
    )
    evaluate(recognizer, clips, "test", sampling, 8, precision="bf16")
    assert made == [8, 8]
