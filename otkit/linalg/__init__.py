"""Linear algebra behind plain arrays: trees on bipartite graphs, sparse matrices, conjugate gradients."""
