# The image of every pod, and of a server by itself.
#
#     docker build --tag rootstock:0.1.0 .
#     docker build --tag rootstock:0.1.0-cuda --build-arg VARIANT=cuda .
#
# Packages are the locked ones, installed by the script that CI runs.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG VARIANT=cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# A compiler for the native kernel. Debian's own versions: the base image fixes the release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY .ci/install .ci/install
COPY pyproject.toml requirements.lock ./
ENV UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1
RUN .ci/install packages /opt/rootstock "${VARIANT}"
COPY . .
# Nothing can be written where it runs, so Python's bytecode is made here.
RUN .ci/install project /opt/rootstock built \
    && python -m compileall -q -j 0 /opt/rootstock/lib \
    && /opt/rootstock/bin/rootstock methods >/dev/null

FROM ${BASE}
ARG VARIANT=cpu
LABEL org.opencontainers.image.title="rootstock" \
      org.opencontainers.image.licenses="Apache-2.0"
# Triton builds its launchers where it runs, so kernels on GPUs need a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && if [ "${VARIANT}" = cuda ]; then \
        apt-get install --yes --no-install-recommends gcc libc6-dev; \
    fi \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 rootstock \
    && useradd --uid 1000 --gid 1000 --create-home rootstock \
    && install -d -o rootstock -g rootstock /store \
    && echo "export PATH=/opt/rootstock/bin:\$PATH" >/etc/profile.d/rootstock.sh
COPY --from=build /opt/rootstock /opt/rootstock
ENV PATH=/opt/rootstock/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/rootstock
VOLUME /store
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=6 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# Ray's operator gives its own command; by itself the image is one server.
CMD ["rootstock", "serve", "--store", "/store", "--host", "0.0.0.0"]
