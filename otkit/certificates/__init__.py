"""The proof: two bounds on the optimum, widened by what rounding can do, and the plans and potentials behind them."""
