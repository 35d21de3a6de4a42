# The workers that compute on NVIDIA GPUs. From the root of the repository:
#
#     docker build --file deploy/images/gpu.Dockerfile --build-arg VERSION=0.2.0 --tag spender-pipeline-gpu:0.2.0 .
#
# cpu.Dockerfile with another torch and another description; what is not explained here is explained there.
#
# PyPI's torch brings CUDA 13 along, so that a Python image is base enough; the node has the driver (580 or newer) and
# NVIDIA's container toolkit, which mounts it. No NVIDIA_* variable is set here: the device plugin, or `--gpus`, sets
# what a container was given, while an image that asks for all GPUs gets them in pods that requested none.

ARG BASE=docker.io/library/python:3.11.15-slim-bookworm

FROM ${BASE} AS requirements
WORKDIR /build
COPY pyproject.toml ./
ARG EXTRAS=""
RUN python3 -c 'import os, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        extras = [project["optional-dependencies"][name] for name in os.environ["EXTRAS"].split()]; \
        print(*sum(extras, project["dependencies"]), sep="\n")' > requirements.txt

FROM ${BASE} AS dependencies
WORKDIR /build
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
ENV PATH=/opt/pip/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_PYTHON=/opt/venv/bin/python
COPY constraints.txt ./
COPY --from=requirements /build/requirements.txt ./
# torch itself pins its CUDA packages to one version each, but for these three.
RUN pip install --constraint constraints.txt --requirement requirements.txt \
        cuda-bindings==13.5.0 cuda-pathfinder==1.9.0 nvidia-nvjitlink==13.5.37

FROM dependencies AS project
COPY . .
RUN pip install --no-build-isolation --no-deps --prefix /opt/project .

FROM ${BASE}
RUN groupadd --gid 10001 spender \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin spender
ENV HOME=/tmp \
    OMP_NUM_THREADS=1 \
    PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
CMD ["spender-pipeline", "--help"]
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=project /opt/project /opt/venv
ARG VERSION=unreleased
LABEL org.opencontainers.image.title="spender-pipeline" \
      org.opencontainers.image.description="GPU workers of spender-pipeline" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
