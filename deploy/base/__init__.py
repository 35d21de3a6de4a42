"""The manifests of a run, which travel with the package: `pipeline.manifests` renders them."""
