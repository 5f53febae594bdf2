# fastass for a CPU. In the checkout:
#   docker build -f examples/docker/cpu.Dockerfile --build-arg TORCH_INDEX=URL -t fastass-cpu .
#   docker run --rm -v "$PWD:/work" fastass-cpu train toycity --out runs/toycity
# TORCH_INDEX: the address of PyTorch's CPU wheels, which its page "Get Started" shows for "CPU".
# Without it pip installs the build for CUDA, which works too and takes several GB.
# A slow test runs the pip steps and the entry point in an environment of its own. The image itself
# has not been built with Docker.
FROM python:3.11-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY . .

ARG TORCH_INDEX=
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
# hadolint ignore=DL3059
RUN pip install --no-cache-dir --constraint constraints.txt '.[charts,export,video]'

RUN useradd --uid 1000 --create-home fastass && mkdir /work && chown fastass /work
USER 1000
WORKDIR /work
ENTRYPOINT ["fastass"]
CMD ["--help"]
