"""Teachers of which the leading entries are known: their data, files of them, and L1 costs to them."""
