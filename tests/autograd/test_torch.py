"""Results in the graph of PyTorch: what training loops do with them."""

import copy
import pickle
import textwrap
import tracemalloc

import pytest
import torch
from measure import peak_of
from torch.utils.checkpoint import checkpoint

import otkit


@pytest.fixture
def cloud():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    return x, torch.rand(9, 2, generator=generator, dtype=torch.float64)


def cost(x, y, **options):
    return otkit.solve_sample(x, y, **{"reg": 0.1, "tol": 1e-10, **options})


def gradient(x, y):
    return torch.autograd.grad(cost(x, y).value_linear, x)[0]


def test_grad_mode_is_respected_and_left_as_it_is(cloud):
    x, y = cloud
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            result = cost(x, y)
            assert not any(v.requires_grad for v in (result.value, result.plan, result.f, *result.marginals))
            assert not torch.is_grad_enabled()
            result.barycentric()
    assert torch.is_grad_enabled()
    result = cost(x, y)
    assert all(v.requires_grad for v in (result.value, result.plan, result.f, *result.marginals, result.apply(y)))
    with torch.no_grad():
        assert not torch.is_grad_enabled()
        result.value.requires_grad_(False)
    assert isinstance(otkit.wasserstein(x, y).distance, torch.Tensor)
    assert isinstance(otkit.wasserstein(x.detach(), y).distance, float)


def test_the_incoming_gradient_is_not_modified(cloud):
    x, y = cloud
    result = cost(x, y)
    incoming = torch.rand(12, 9, dtype=torch.float64)
    kept = incoming.clone()
    result.plan.backward(incoming)
    assert torch.equal(incoming, kept)


def test_gradients_accumulate_and_compose(cloud):
    x, y = cloud
    once = gradient(x, y)
    for _ in range(2):
        cost(x, y).value_linear.backward()
    torch.testing.assert_close(x.grad, 2 * once)
    torch.testing.assert_close(torch.autograd.grad(cost(torch.sin(x), y).value_linear, x)[0], gradient_of_sine(x, y))
    through = checkpoint(lambda x: cost(x, y).value_linear, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(through, x)[0], once)


def gradient_of_sine(x, y):
    return torch.cos(x.detach()) * gradient(torch.sin(x.detach()).requires_grad_(), y)


def test_no_gradient_of_data_that_changed_since(cloud):
    x, y = cloud
    value = cost(x, y).value
    with torch.no_grad():
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_a_second_derivative_is_refused_and_never_zero(cloud):
    x, y = cloud
    for name in ("value_linear", "f", "plan"):
        field = getattr(cost(x, y), name).sum()
        (first,) = torch.autograd.grad(field, x, create_graph=True)
        assert first.requires_grad
        with pytest.raises(RuntimeError, match=f"second derivatives of {name} are not available"):
            torch.autograd.grad(first.sum(), x)


def test_autocast_changes_nothing(cloud):
    x, y = (v.detach().float() for v in cloud)
    x.requires_grad_()
    value = otkit.solve_sample(x, y, reg=0.1).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = otkit.solve_sample(x, y, reg=0.1).value
    assert inside.dtype == torch.float32
    assert torch.equal(inside, value)
    assert torch.equal(torch.autograd.grad(inside, x)[0], torch.autograd.grad(value, x)[0])


@pytest.mark.filterwarnings("ignore")  # of the compiler's
def test_compilers_break_their_graph_around_a_solve(cloud):
    x, y = cloud

    def step(x):
        result = cost(torch.tanh(x) * 2, y)
        return (result.value * 3 + result.f.sum() + otkit.wasserstein(x, y).distance + x.sum()) ** 2

    plain = step(x)
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(step, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, plain)
    one, other = (torch.autograd.grad(v, x)[0] for v in (compiled, plain))
    torch.testing.assert_close(one, other)
    # Calls and fields break it; nothing inside them is traced.
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) <= 8


def test_an_unconverged_solve_warns_on_the_way_back(cloud):
    x, y = cloud
    with pytest.warns(otkit.ConvergenceWarning):
        value = cost(x, y, max_iter=2).value
    with pytest.warns(otkit.ConvergenceWarning, match="gradients are approximate"):
        value.backward()


def test_where_no_gradient_goes_back_it_is_said(cloud):
    x, y = cloud
    result = cost(x, y)
    for call in (result.barycentric, lambda: result.transport(y), lambda: cost(x.detach(), y).transport(x)):
        with pytest.raises(ValueError, match=r"detach|no_grad"):
            call()
    with pytest.raises(ValueError, match="callable; form the costs"):
        otkit.solve_sample(x, y, metric=torch.cdist, reg=0.1)
    with pytest.raises(ValueError, match="x requires gradients"):
        otkit.pairwise([x, y])
    plan = otkit.solve(torch.cdist(x, y)).plan
    with pytest.raises(ValueError, match="no useful gradient of plan"):
        plan.sum().backward()


def test_the_distance_of_equal_clouds_has_the_gradient_0(cloud):
    x, _ = cloud
    distance = otkit.wasserstein(x, x.detach().clone()).distance
    distance.backward()
    assert float(distance.detach()) == 0
    assert not x.grad.any()


def test_a_divergence_of_equal_clouds_is_0_with_the_gradient_0(cloud):
    x, _ = cloud
    divergence = otkit.sinkhorn_divergence(x, x.detach().clone(), reg=0.05)
    divergence.value.backward()
    assert float(divergence) == 0
    torch.testing.assert_close(x.grad, torch.zeros_like(x), atol=1e-7, rtol=0)


def test_results_print_pickle_and_copy(cloud):
    x, y = cloud
    result = cost(x * 2, y, reg=x.sum() * 0.01, unbalanced=(x.sum(), 2.0))
    assert "Result(12 × 9" in repr(result)
    for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        torch.testing.assert_close(twin.value, result.value.detach())
        assert not twin.value.requires_grad


def test_graphs_are_freed():
    x = torch.rand(50, 2, dtype=torch.float64, requires_grad=True)

    def step():
        result = cost(x, x.detach() + 1)
        (result.value + result.f.sum()).backward()
        return result.plan

    step()
    tracemalloc.start()
    for _ in range(20):
        step()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20 * 50 * 50 * 8


def test_the_way_back_takes_no_memory_for_iterations(cloud):
    x = torch.rand(300, 2, dtype=torch.float64, requires_grad=True)
    peaks = []
    for reg in (1.0, 1e-3):
        value = otkit.solve_sample(x, x.detach() + 0.1, reg=reg).value
        tracemalloc.start()
        value.backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert max(peaks) < 300 * 300 * 8 * 8


def test_large_clouds_of_many_dimensions_go_back_within_few_matrices():
    before, after = peak_of(textwrap.dedent("""
        import torch
        import otkit
        x = torch.randn(2500, 64, requires_grad=True)
        y = torch.randn(2500, 64)
        def step(x, y):
            result = otkit.solve_sample(x, y, reg=60.0, tol=1e-2)
            (result.value + 0.1 * result.f[:100].sum()).backward()
        step(x[:300], y[:300])  # compiles, which takes memory too
        MEASURE
        step(x, y)
        assert torch.isfinite(x.grad).all()
    """))  # fmt: skip
    # Two and a half matrices of float64; the differences of all points would be 64.
    assert after - before < 4 * 8 * 2500**2
