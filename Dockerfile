# One image, two services: `serve` is chat behind DJL Serving, `denoiser` the denoiser; `prepare` fetches their models.
# What changes least comes first, the code last. Only build arguments and secrets differ between places.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS tools
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl python3-venv \
    && rm -rf /var/lib/apt/lists/*


FROM tools AS djl
# The official release; the checksum is the one in the Homebrew formula djl-serving.
ARG DJL_URL=https://publish.djl.ai/djl-serving/serving-0.36.0.tar
ARG DJL_SHA256=f91e90522f38a8c86172c34620d88202e7222233804a240f05d10c51b72085c0
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export CURL_CA_BUNDLE=/run/secrets/ca; fi \
    && curl --fail --silent --show-error --location --retry 3 --output /tmp/serving.tar "${DJL_URL}" \
    && echo "${DJL_SHA256}  /tmp/serving.tar" > /tmp/checksum \
    && sha256sum --check /tmp/checksum \
    && mkdir /opt/djl-serving \
    && tar --extract --file /tmp/serving.tar --directory /opt/djl-serving --strip-components 1 --no-same-owner \
    && rm /tmp/serving.tar /tmp/checksum


FROM tools AS venv
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
# `services`, or `vllm`: the same with vLLM, for a GPU.
ARG REQUIREMENTS=services
COPY requirements/services.txt requirements/vllm.txt /requirements/
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes \
        -r "/requirements/${REQUIREMENTS}.txt" \
    && mv /opt/venv/lib/python3.11/site-packages/nvidia /opt/cuda

# Python finds the code where the next stage puts it.
RUN printf '%s\n' /opt/djl-container /opt/djl-container/serving > /opt/venv/lib/python3.11/site-packages/services.pth


FROM ${BASE_IMAGE}
# gcc and Python's headers are for Triton, which compiles its launchers when a GPU kernel first runs. Java's package links
# into the folder of manual pages, which slim images lack.
# hadolint ignore=DL3008
RUN mkdir -p /usr/share/man/man1 \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev libpython3.11-dev openjdk-17-jre-headless python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /tmp/* \
    && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin service \
    && install --directory --owner 10001 --group 10001 /models /data /compiled

COPY --from=djl /opt/djl-serving /opt/djl-serving
# Half of the dependencies by size are CUDA. In a layer of its own it is pushed and pulled beside the other half, and not
# again when only Python packages change.
COPY --from=venv /opt/cuda /opt/venv/lib/python3.11/site-packages/nvidia
COPY --from=venv /opt/venv /opt/venv

# Whatever a library caches goes to /tmp; only models are kept.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    DJL_SERVING_HOME=/opt/djl-serving \
    CHAT_CACHE_DIR=/models \
    HF_HOME=/models/huggingface \
    DENOISER_DATA=/data \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /opt/djl-container
COPY requirements/embedded.txt ./
COPY --chmod=555 entrypoint.sh ./
COPY denoiser denoiser
COPY serving serving

ARG SOURCE=""
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="djl-container" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true"

USER 10001:10001
EXPOSE 8080 8000
# tini reaps what outlives its parent, and makes of a start cut short by SIGTERM a clean end.
ENTRYPOINT ["tini", "-e", "143", "--", "/opt/djl-container/entrypoint.sh"]
CMD ["serve"]
