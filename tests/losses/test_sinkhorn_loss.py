"""The Sinkhorn loss in training loops."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import otkit
from otkit.losses import SinkhornLoss


@pytest.fixture
def clouds():
    """Three pairs of weighted clouds."""
    rng = np.random.default_rng(0)
    arrays = rng.random((3, 10, 2)), rng.random((3, 8, 2)), rng.dirichlet(np.ones(10), 3), rng.dirichlet(np.ones(8), 3)
    return tuple(torch.tensor(v) for v in arrays)


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("unbalanced", [None, 0.7])
@pytest.mark.parametrize("p", [1, 2])
def test_it_is_the_divergence_or_the_cost(clouds, debias, unbalanced, p):
    x, y, a, b = clouds
    loss = SinkhornLoss(0.1, p=p, debias=debias, unbalanced=unbalanced, reduction="none")(x, y, a, b)
    call = otkit.sinkhorn_divergence if debias else otkit.solve_sample
    for k in range(3):
        metric = "sqeuclidean" if p == 2 else "euclidean"
        one = call(x[k], y[k], a[k], b[k], reg=0.1, metric=metric, unbalanced=unbalanced)
        torch.testing.assert_close(loss[k], one.value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("p", "reach", "wanted", "short"), [
    (2, None, 0.0529004847, 2e-7), (2, 0.5, 0.0429174851, 2e-7), (1, None, 0.1876628804, 1e-4), (1, 0.5, 0.1336108044, 1e-4),
])  # fmt: skip
def test_blur_and_reach_are_those_of_geomloss(p, reach, wanted, short):
    # SamplesLoss("sinkhorn", p=p, blur=0.1, reach=reach, scaling=0.9999, backend="tensorized") of GeomLoss 0.3.1, to
    # which a point is 1e-4 away from itself for p = 1.
    rng = np.random.default_rng(1)
    x, y = torch.tensor(rng.random((30, 2))), torch.tensor(rng.random((40, 2)) + 0.2)
    a, b = torch.tensor(rng.dirichlet(np.ones(30))), torch.tensor(rng.dirichlet(np.ones(40)) * (1.3 if reach else 1.0))
    loss = SinkhornLoss(blur=0.1, p=p, reach=reach, tol=1e-10)(x, y, a, b)
    assert float(loss) == pytest.approx(wanted, abs=short)


def test_masked_points_change_neither_value_nor_gradient(clouds):
    x, y, a, b = (v[0].clone() for v in clouds)
    loss = SinkhornLoss(0.1)
    x.requires_grad_()
    (alone,) = torch.autograd.grad(loss(x[:6], y[:5]), x)
    mask_x, mask_y = torch.arange(10) < 6, torch.arange(8) < 5
    for rubbish in (0.0, 1e6, np.nan):
        padded = torch.where(mask_x[:, None], x, rubbish)
        value = loss(padded, torch.where(mask_y[:, None], y, rubbish), mask_x=mask_x, mask_y=mask_y)
        torch.testing.assert_close(value, loss(x[:6], y[:5]))
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], alone, rtol=1e-6, atol=1e-9)
    left = loss(x.flip(0), y.flip(0), mask_x=mask_x.flip(0), mask_y=mask_y.flip(0))
    torch.testing.assert_close(left, loss(x[:6], y[:5]))
    weighted = loss(x, y, a, b * (a[:6].sum() / b[:5].sum()), mask_x=mask_x, mask_y=mask_y)
    torch.testing.assert_close(weighted, loss(x[:6], y[:5], a[:6], b[:5] * (a[:6].sum() / b[:5].sum())))


def test_clouds_of_different_sizes_in_a_batch(clouds):
    x, y, _, _ = clouds
    sizes = torch.tensor([10, 3, 7])
    mask = torch.arange(10) < sizes[:, None]
    loss = SinkhornLoss(0.1, reduction="none")
    found = loss(x, y, mask_x=mask)
    for k, size in enumerate(sizes):
        torch.testing.assert_close(found[k], loss(x[k, :size], y[k]), rtol=1e-6, atol=1e-9)


def test_histograms_share_their_points(clouds):
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1).reshape(-1, 2)
    logits = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    target = torch.full((16,), 1 / 16, dtype=torch.float64)
    loss = SinkhornLoss(0.5, reduction="none", tol=1e-12)
    found = loss(grid.double(), grid.double(), logits.softmax(-1), target)
    assert found.shape == (5,)
    assert gradcheck(lambda v: loss(grid.double(), grid.double(), v.softmax(-1), target), logits, fast_mode=True)


def test_reductions(clouds):
    each, mean, total = (SinkhornLoss(0.1, reduction=how)(*clouds) for how in ("none", "mean", "sum"))
    torch.testing.assert_close(mean, each.mean())
    torch.testing.assert_close(total, each.sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(clouds, dtype):
    x, y, _, _ = (v.to(dtype).requires_grad_() for v in clouds)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = SinkhornLoss(0.1)(x, y)
    loss.backward()
    assert loss.dtype == torch.float32
    assert x.grad.dtype == dtype
    torch.testing.assert_close(loss, SinkhornLoss(0.1)(x.float(), y.float()))


def test_modules_copy_pickle_and_have_no_state(clouds):
    loss = SinkhornLoss(blur=0.1, reach=0.5, p=1)
    assert loss.state_dict() == {}
    assert "blur=0.1, p=1" in repr(loss)
    buffer = io.BytesIO()
    torch.save(loss, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(twin(*clouds), loss(*clouds))


def test_a_step_of_gradient_descent_lowers_it(clouds):
    x, y, _, _ = clouds
    x.requires_grad_()
    loss, optimizer = SinkhornLoss(0.05), torch.optim.SGD([x], lr=2.0)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(x, y)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.05 * values[0]


@pytest.mark.filterwarnings("ignore")  # of the compiler's
def test_a_compiled_step(clouds):
    x, y, _, _ = clouds
    loss = SinkhornLoss(0.1)
    step = torch.compile(lambda x: loss(torch.tanh(x), y) * 2, backend="aot_eager")
    torch.testing.assert_close(step(x), loss(torch.tanh(x), y) * 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "one of reg and blur must be given, got reg=None and blur=None"),
        ({"reg": 1.0, "blur": 1.0}, "one of reg and blur"),
        ({"reg": 1.0, "reach": 1.0}, "reach goes with blur"),
        ({"blur": 1.0, "unbalanced": 1.0}, "unbalanced with reg"),
        ({"reg": -1.0}, "reg must be a positive number"),
        ({"reg": 1.0, "reduction": "batchmean"}, "reduction must be one of mean, sum, none, got 'batchmean'"),
        ({"reg": 1.0, "p": 0.5}, "p must be"),
        ({"reg": 1.0, "metric": "sqeuclidean"}, "metric must be a distance"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        SinkhornLoss(**options)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.full((10,), -1.0), "mask_x must be 0 where nothing takes part"),
        (torch.ones(7, dtype=torch.bool), r"as many entries as x \(..., n, d\) has points, got \(7,\)"),
    ],
)
def test_bad_masks(clouds, mask, words):
    with pytest.raises(ValueError, match=words):
        SinkhornLoss(0.1)(clouds[0], clouds[1], mask_x=mask)


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.float32, torch.bfloat16])
def test_masks_of_any_dtype_are_true_where_they_are_not_0(clouds, dtype):
    x, y, _, _ = clouds
    mask = torch.arange(10) < 6
    assert torch.equal(SinkhornLoss(0.1)(x, y, mask_x=mask.to(dtype)), SinkhornLoss(0.1)(x, y, mask_x=mask))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shapes", [((0, 2), (8, 2)), ((3, 0, 2), (8, 2)), ((0, 10, 2), (0, 8, 2)), ((0, 2), (0, 2))])
def test_pairs_without_points_are_0_with_a_gradient_of_0(shapes, reduction):
    x, y = (torch.ones(shape, requires_grad=True) for shape in shapes)
    value = SinkhornLoss(0.1, reduction=reduction)(x, y)
    assert value.shape == (torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]) if reduction == "none" else ())
    value.sum().backward()
    assert not value.any()
    assert not x.grad.any()
    assert not y.grad.any()


def test_pairs_whose_mask_leaves_nothing_do_not_count(clouds):
    x, y = clouds[0][:2].clone().requires_grad_(), clouds[1][0]
    mask = torch.ones(2, 10)
    mask[0] = 0
    reg = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    each = SinkhornLoss(reg, reduction="none")(x, y, mask_x=mask)
    alone = SinkhornLoss(0.2)(x[1], y)
    torch.testing.assert_close(each, torch.stack([alone * 0, alone]))
    torch.testing.assert_close(SinkhornLoss(reg)(x, y, mask_x=mask), alone)
    each.sum().backward()
    assert not x.grad[0].any()
    assert reg.grad[0] == 0
    assert reg.grad[1] != 0


@pytest.mark.parametrize("where", ["x", "y", "a"])
def test_a_pair_with_nan_is_nan_and_the_others_are_not(clouds, where):
    given = [v.clone() for v in clouds]
    given["xya".index(where)][1].view(-1)[2] = math.nan
    given[0].requires_grad_()
    value = SinkhornLoss(0.1, reduction="none")(*given)
    assert value.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(value[0], SinkhornLoss(0.1)(*(v[0] for v in clouds)))
    assert SinkhornLoss(0.1)(*given).isnan()
    value.sum().backward()
    assert given[0].grad.isnan().all((1, 2)).tolist() == [False, True, False]
    assert given[0].grad[[0, 2]].isfinite().all()
    with pytest.raises(ValueError, match=f"{where} must be finite"):
        SinkhornLoss(0.1, check=True)(*given)


@pytest.mark.parametrize("name", ["reg", "blur", "unbalanced", "reach"])
def test_options_are_learned(clouds, name):
    beside = {"unbalanced": {"reg": 0.1}, "reach": {"blur": 0.3}}.get(name, {})

    def loss(value):
        return SinkhornLoss(**{name: value}, **beside, tol=1e-12)

    value = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
    module = loss(value)
    assert [p is value for p in module.parameters()] == [True]
    assert f"{name}=0.4" in repr(module)
    module(*clouds[:2]).backward()
    step = 1e-5
    slope = (loss(0.4 + step)(*clouds[:2]) - loss(0.4 - step)(*clouds[:2])) / (2 * step)
    torch.testing.assert_close(value.grad, slope, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match=f"{name} must be positive, got"):
        loss(torch.tensor(-1.0))(*clouds[:2])


def test_images_are_no_points():
    with pytest.raises(ValueError, match=r"pass x.flatten\(2\).mT"):
        SinkhornLoss(0.1)(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    points = maps.flatten(2).mT
    assert SinkhornLoss(0.1)(points, points + 1).isclose(torch.tensor(3.0))


@pytest.mark.parametrize("batch", [0, 3])
def test_batches_that_do_not_fit_are_refused(batch):
    with pytest.raises(ValueError, match="must broadcast to one shape, got x"):
        SinkhornLoss(reg=0.5)(torch.zeros(batch, 5, 2), torch.zeros(2, 4, 2))
