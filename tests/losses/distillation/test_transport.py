"""The transport of rows at L1 distances."""

from otkit.losses.distillation import transport


def test_the_largest_cost_is_that_of_distributions():
    assert transport.LARGEST == 2
