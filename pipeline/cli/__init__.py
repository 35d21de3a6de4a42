"""The command line: one module per verb or pair of verbs."""
