"""Linear algebra on plain arrays: trees on bipartite graphs, sparse matrices, conjugate gradients."""
