"""The manifests of a run, which travel with the package: `pipeline.kubernetes.manifests` renders them."""
