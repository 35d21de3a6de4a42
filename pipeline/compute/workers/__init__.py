"""The workers of a Dask cluster: who is there, what each of them may do, whether any can do what is left."""
