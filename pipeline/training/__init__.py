"""Train models on the stores of runs."""
