# For GPUs:   docker build -t megatron-prealign .
# For CPUs:   docker build -t megatron-prealign --build-arg BASE=python:3.11 --build-arg EXTRAS=dev .
ARG BASE=nvcr.io/nvidia/pytorch:25.06-py3
FROM ${BASE}
ARG EXTRAS=""

WORKDIR /opt/megatron-prealign
COPY . .

# NVIDIA's images carry their own builds of torch, Transformer Engine and apex, which belong
# together: what is installed is pinned to itself, so that pip takes it as it is. A plain Python
# image has no torch, and gets everything as the tests have it, torch for CPU.
RUN if python -c "import torch" 2>/dev/null; then \
        pip list --format=freeze | grep -iE '^(torch|triton|transformer[-_]engine|apex|numpy)[a-z0-9_-]*==' > /tmp/constraints.txt; \
        python -c "import transformer_engine" 2>/dev/null || EXTRAS="gpu${EXTRAS:+,$EXTRAS}"; \
    else \
        cp constraints.txt /tmp/constraints.txt; \
        pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt torch; \
    fi \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt --editable ".${EXTRAS:+[$EXTRAS]}"

CMD ["python", "pretrain_prealign.py", "--help"]
