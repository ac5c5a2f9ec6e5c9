"""The unregularised problem on grids: from coarse grids to the finest, and flows along the edges of the grid."""
