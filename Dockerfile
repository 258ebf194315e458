# For GPUs:  docker build -t megatron-prealign .
# For CPUs:  docker build -t megatron-prealign:cpu --target cpu .   # `make test` passes in it
# Both run as the user of examples/own_data/kubernetes.yaml. `.ci/image.py FOLDER` executes the second without Docker.

FROM debian:12.12-slim AS cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates gcc make procps python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 prealign && mkdir /opt/megatron-prealign && chown prealign: /opt/megatron-prealign
WORKDIR /opt/megatron-prealign
USER prealign
COPY --chown=prealign:prealign . .
# The packages of constraints.txt, torch for CPUs.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN PIP_NO_CACHE_DIR=1 make .venv/.done
ENV PATH=/opt/megatron-prealign/.venv/bin:/usr/local/bin:/usr/bin:/bin
CMD ["python", "pretrain_prealign.py", "--help"]

FROM nvcr.io/nvidia/pytorch:25.06-py3 AS gpu
RUN useradd --create-home --uid 10001 prealign
WORKDIR /opt/megatron-prealign
COPY . .
# The image's own builds of torch, Transformer Engine and apex belong together: pip is held to them.
RUN pip list --format=freeze | grep -iE '^(torch|triton|transformer[-_]engine|apex|numpy)[a-z0-9_-]*==' > /tmp/constraints.txt \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt --editable . \
    && chown prealign: .
USER prealign
CMD ["python", "pretrain_prealign.py", "--help"]
