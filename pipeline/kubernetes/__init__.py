"""A run as a job on Kubernetes."""
