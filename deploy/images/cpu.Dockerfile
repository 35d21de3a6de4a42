# The scheduler, the driver and the workers that compute on CPUs. From the root of the repository:
#
#     docker build --file deploy/images/cpu.Dockerfile --build-arg VERSION=0.2.0 --tag spender-pipeline:0.2.0 .
#
# gpu.Dockerfile differs in where torch comes from and in its description. Any other change is made in both, because
# the workers of both answer to one scheduler, which wants the same versions everywhere.

# A tag may be moved to another image, a digest cannot: give one (BASE=...@sha256:...) to have the same base forever.
ARG BASE=docker.io/library/python:3.11.15-slim-bookworm

# A stage for one short file, so that pyproject.toml may change, as it does with every version, and nothing is installed
# again unless its dependencies do.
FROM ${BASE} AS requirements
WORKDIR /build
COPY pyproject.toml ./
# Optional groups of pyproject.toml, separated by spaces. EXTRAS=demo lets `spender-pipeline demo` run; keep such an
# image to yourself, for ppxf's licence forbids redistribution.
ARG EXTRAS=""
RUN python3 -c 'import os, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        extras = [project["optional-dependencies"][name] for name in os.environ["EXTRAS"].split()]; \
        print(*sum(extras, project["dependencies"]), sep="\n")' > requirements.txt

FROM ${BASE} AS dependencies
WORKDIR /build
# pip has an environment of its own, which stays behind: nothing is installed into a finished image.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
ENV PATH=/opt/pip/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_PYTHON=/opt/venv/bin/python
COPY constraints.txt ./
# torch as PyPI has it brings gigabytes of CUDA, for which a CPU has no use. The index without is asked for torch only,
# because its other packages are not those of constraints.txt.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --constraint constraints.txt --index-url "${TORCH_INDEX}" --no-deps torch
COPY --from=requirements /build/requirements.txt ./
RUN pip install --constraint constraints.txt --requirement requirements.txt

FROM dependencies AS project
COPY . .
# Without isolation: setuptools is there, as torch requires it, and a new version of the source needs no network.
RUN pip install --no-build-isolation --no-deps --prefix /opt/project .

FROM ${BASE}
RUN groupadd --gid 10001 spender \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin spender
# HOME is where matplotlib, astropy, huggingface_hub and Dask put their caches: nothing but /tmp has to be writable.
# OMP_NUM_THREADS: a chunk is computed by one thread, which is what makes results the same on every worker.
ENV HOME=/tmp \
    OMP_NUM_THREADS=1 \
    PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
# As a number, or Kubernetes' runAsNonRoot cannot tell that it is not root.
USER 10001:10001
# No ENTRYPOINT: arguments name the program, `spender-pipeline run ...` or `dask worker ...`, which is then process 1.
# No init above it either: both handle SIGTERM and wait for the processes that they started.
CMD ["spender-pipeline", "--help"]
# Two layers: where only the source is new, only the second, small one is pulled. pip has compiled both to bytecode,
# which could not be kept under a read-only root.
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=project /opt/project /opt/venv
ARG VERSION=unreleased
LABEL org.opencontainers.image.title="spender-pipeline" \
      org.opencontainers.image.description="Scheduler, driver and CPU workers of spender-pipeline" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
