"""The results of a run as one table: its columns, its rows block by block, and the files it is written to."""
