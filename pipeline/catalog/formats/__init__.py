"""One module for each family of catalog formats: bytes -> a table of named columns, in blocks of rows."""
