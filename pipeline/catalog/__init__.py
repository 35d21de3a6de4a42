"""A catalog of any size -> the table of targets."""
