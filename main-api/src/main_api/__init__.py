"""One address for everything: keys, jobs that are not lost, events, and the records behind them."""
