"""How it is decided: evidence, claims, verdicts and the statistics behind them."""
