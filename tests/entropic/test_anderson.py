import numpy as np

from otkit.entropic.anderson import Mixing, mix


def iterate(step, start, error_of, iterations):
    past, f = Mixing.begin(start, np.full(len(start), np.inf)), start
    errors = []
    for _ in range(iterations):
        errors.append(error_of(f))
        f, past = mix(past, f, step(f), errors[-1], np.full_like(f, 1 / f.shape[1]))
    return np.array(errors)


def test_slow_affine_iterations_are_solved_in_as_many_steps_as_they_have_modes(rng):
    rates = np.array([0.999999, 0.9999, 0.99, -0.5, 0.3, 0.0])
    # As in sweeps, a constant passes through the map and is no error.
    turn = np.linalg.qr(np.column_stack([np.ones(7), rng.standard_normal((7, 6))]))[0][:, 1:]
    matrix, solution = turn @ np.diag(rates) @ turn.T + 1 / 7, rng.standard_normal(7)
    start = solution[None] + 0.01 * rng.standard_normal((1, 7))
    errors = iterate(
        lambda f: solution + (f - solution) @ matrix.T, start, lambda f: abs((f - solution) @ (matrix - np.eye(7)).T).sum(1), 20
    )  # fmt: skip
    assert errors[-1, 0] < 1e-9 * errors[0, 0]


def test_items_do_not_see_each_other(rng):
    start = rng.standard_normal((3, 5))

    def step(f):
        return 0.9 * np.sin(f)

    def error(f):
        return abs(step(f) - f).sum(1) / 100

    together = iterate(step, start, error, 15)
    for k in range(3):
        alone = iterate(step, start[k : k + 1], error, 15)
        np.testing.assert_allclose(together[:, k], alone[:, 0], rtol=1e-6, atol=1e-14)


def test_a_rising_error_sends_an_item_back_to_its_best_point():
    start = np.array([[1.0, 2.0]])
    past, f = Mixing.begin(start, np.full(len(start), np.inf)), start
    for error in (0.1, 0.08, 0.06):
        f, past = mix(past, f, 0.9 * f, np.array([error]), np.full_like(f, 1 / f.shape[1]))
    best = past.best_point
    f, past = mix(past, 50 * f, 40 * f, np.array([0.2]), np.full_like(f, 1 / f.shape[1]))
    np.testing.assert_array_equal(f, best)
    assert (past.moves == 0).all()
    for plain in (0.5, 0.4):  # and then plain steps, whatever the past
        before = f
        f, past = mix(past, f, plain * f, np.array([0.05]), np.full_like(f, 1 / f.shape[1]))
        np.testing.assert_array_equal(f, plain * before)
