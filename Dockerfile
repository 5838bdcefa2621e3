# docker build -t plmft .
# docker run --rm --gpus all --user "$(id -u)" -v "$PWD:/work" plmft plmft.train experiment=quickstart
# docker run --rm --gpus all --user "$(id -u)" -v "$PWD:/work" -v /my/data:/data:ro -e PLMFT_DATA=/data \
#     plmft plmft.evaluate run=RUN_ID
#
# The word after the image is a module of plmft, the rest are its options. Runs go to ./mlruns of the mounted folder.
# The packages are those of requirements.lock, at its versions. A CPU build of PyTorch, or extras:
#
#   docker build --build-arg PIP_ARGS="--extra-index-url ADDRESS" --build-arg EXTRAS="[onnx,embed]" -t plmft .
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY plmft plmft
COPY hydra_plugins hydra_plugins
COPY conf conf
COPY tasks tasks
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
ARG PIP_ARGS=""
ARG EXTRAS=""
# MMseqs2 clusters sequences for splits and the search for leaks; Debian keeps one version of it for a release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git mmseqs2 \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /requirements.lock
COPY --from=wheel /wheels /wheels
# the wheel by its path, so that extras can follow it; PIP_ARGS may be several words
# hadolint ignore=SC2086
RUN wheel="$(echo /wheels/plmft-*.whl)" \
    && pip install --no-cache-dir --constraint /requirements.lock ${PIP_ARGS} "${wheel}${EXTRAS}"
RUN useradd --create-home --uid 1000 plmft
USER 1000
WORKDIR /work
# USER and the two folders: for --user, whose id may have no name and no home
ENV PLMFT_RUNS=/work/mlruns \
    HF_HOME=/work/.cache/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    USER=plmft \
    PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "-m"]
CMD ["plmft.doctor"]
