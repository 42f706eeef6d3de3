# videohpm with CUDA:   docker build -t videohpm .
#                       docker run --gpus all --ipc host -v /my/videos:/data -v runs:/work/runs videohpm \
#                           pretrain --config configs/pretrain/ssv2_base.yaml --data.root /data
# without a GPU:        docker build --target cpu -t videohpm:cpu .  &&  docker run videohpm:cpu demo
# --ipc host, or --shm-size: reading processes hand clips over in shared memory.

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY configs configs
COPY datasets datasets
COPY videohpm videohpm
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm AS cpu
# --build-arg PIP_EXTRA_INDEX_URL=… of torch's wheels for CPUs makes the image several GB smaller.
ARG PIP_EXTRA_INDEX_URL=""
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl
RUN useradd --create-home --uid 1001 videohpm && mkdir /work && chown videohpm /work
USER 1001
WORKDIR /work
ENTRYPOINT ["videohpm"]
CMD ["--help"]

# DeepSpeed compiles some of its operators when they are first used: that takes the compiler of CUDA.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS cuda
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv ffmpeg ninja-build \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/videohpm/bin:$PATH
COPY --from=wheel /wheels /wheels
RUN python3 -m venv /opt/videohpm && pip install --no-cache-dir /wheels/*.whl
RUN useradd --create-home --uid 1001 videohpm && mkdir /work && chown videohpm /work
USER 1001
WORKDIR /work
ENTRYPOINT ["videohpm"]
CMD ["--help"]
