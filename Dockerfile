# florilegium in a container, built from this source tree: docs/how-to/install.md says how to build and run it.
#
#   docker build --tag florilegium .
#   docker build --tag florilegium --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .     without CUDA
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/florilegium && \
    /opt/florilegium/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt --extra-index-url "${TORCH_INDEX}" ".[serve,export,excel]"

FROM python:${PYTHON}-slim-bookworm
# Triton compiles the calls of its kernels with a C compiler when they first run.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/florilegium /opt/florilegium
# Base models and compiled kernels lie in /cache, a volume that outlives the container; rows and runs in /work, which is a
# folder of yours. Whoever the container runs as (--user) may write there.
RUN useradd --uid 1000 --create-home florilegium && install --directory --mode 1777 /work /cache
ENV PATH=/opt/florilegium/bin:$PATH HOME=/cache HF_HOME=/cache/huggingface TRITON_CACHE_DIR=/cache/triton PYTHONUNBUFFERED=1
USER florilegium
WORKDIR /work
VOLUME /cache
ENTRYPOINT ["florilegium"]
CMD ["--help"]
