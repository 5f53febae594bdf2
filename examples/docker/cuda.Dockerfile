# fastass for NVIDIA GPUs, with DALI and apex. In the checkout:
#   docker build -f examples/docker/cuda.Dockerfile -t fastass .
#   docker run --rm --gpus all --shm-size 16g -v "$PWD:/work" fastass \
#     fastass train toycity --amp --out runs/toycity
# It needs a driver for CUDA 13. This file is linted; no step of it has been run, and no GPU was
# there to try it. `fastass doctor` in the container says what works.
FROM nvidia/cuda:13.0.1-devel-rockylinux9

# hadolint ignore=DL3041
RUN dnf install -y python3.11 python3.11-devel python3.11-pip gcc-c++ git \
    && dnf clean all \
    && python3.11 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[charts,dali,export,video,hf]'

# NVIDIA apex, from its source: the package of that name on the package index is another project.
# A100, H100 and B200; give the capabilities of your own GPUs. It takes many minutes.
ARG TORCH_CUDA_ARCH_LIST="8.0;9.0;10.0"
ARG APEX=26.09
RUN pip install --no-cache-dir --constraint constraints.txt ninja packaging setuptools wheel \
    && git clone --depth 1 --branch "$APEX" https://github.com/NVIDIA/apex /tmp/apex \
    && APEX_CPP_EXT=1 APEX_CUDA_EXT=1 TORCH_CUDA_ARCH_LIST="$TORCH_CUDA_ARCH_LIST" \
       pip install --no-cache-dir --no-build-isolation /tmp/apex \
    && rm -rf /tmp/apex

RUN useradd --uid 1000 --create-home fastass && mkdir /work && chown fastass /work
USER 1000
WORKDIR /work
CMD ["fastass", "--help"]
