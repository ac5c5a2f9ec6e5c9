"""Softmaxes at a temperature, against those of PyTorch."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from otkit.losses.softmax import softened


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(1,), (5, 7), (2, 3, 3000)])
def test_both_passes_are_those_of_torch(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    x, c = (3 * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    x.requires_grad_()
    found, wanted = softened(x, 1.7), torch.softmax(x / 1.7, -1)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad((v * c).sum(), x)[0] for v in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6 if dtype == torch.float32 else 1e-14)


def test_first_and_second_derivatives():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda v: softened(v, 1.7), x)
    assert gradgradcheck(lambda v: softened(v, 1.7), x)


def test_rows_with_entries_that_are_not_finite():
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([[1.0, nan], [inf, 0.0], [-inf, 0.0], [-inf, -inf], [3e38, -3e38]])
    torch.testing.assert_close(softened(x, 2.0), torch.softmax(x / 2.0, -1), equal_nan=True)


def test_a_temperature_that_is_learned():
    x, temperature = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    assert gradcheck(softened, (x.requires_grad_(), temperature.requires_grad_()))
