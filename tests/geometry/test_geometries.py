import numpy as np
from numpy.testing import assert_allclose

from otkit import Dense, PointCloud


def test_points_are_tiles_of_the_dense_costs(rng):
    x, y = rng.standard_normal((2, 11, 3)), rng.standard_normal((7, 3))
    cloud = PointCloud(x, y, "euclidean")
    assert cloud.batch == (2,)
    flat = cloud.flat((2,))
    dense = np.linalg.norm(x[:, :, None] - y[None, None], axis=-1)
    assert_allclose(flat.block(slice(0, 2), slice(3, 6)), dense[:, 3:6])
    assert_allclose(flat.T.block(slice(1, 2), slice(0, 2)), dense.transpose(0, 2, 1)[1:2, 0:2])
    assert_allclose(flat.take(np.array([1])).block(slice(0, 1), slice(None)), dense[1:])


def test_flattening_copies_a_matrix_only_where_it_is_partly_shared(rng):
    C = rng.random((5, 4))
    assert np.shares_memory(Dense(C).flat((7, 2)).C, C)
    own = rng.random((7, 2, 5, 4))
    assert np.shares_memory(Dense(own).flat((7, 2)).C, own)
    mixed = Dense(own[:, :1]).flat((7, 2)).C
    assert_allclose(mixed.reshape(7, 2, 5, 4)[:, 1], own[:, 0])
