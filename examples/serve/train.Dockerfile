# Training, evaluation and export, on CPUs. From the root of the checkout:
#
#   docker build -f examples/serve/train.Dockerfile -t train-faces .
#   docker run --rm -v "$PWD/faces:/faces:ro" -v "$PWD/runs:/runs" --user "$(id -u):$(id -g)" \
#       train-faces tf_sphereface-train --data /faces --preset small --out /runs/first
#
# For an NVIDIA GPU: --build-arg TENSORFLOW='tensorflow[and-cuda]', and docker run --gpus all; the
# packages of CUDA are those that this TensorFlow names, and no pins of constraints.txt.
FROM python:3.11-slim

ARG TENSORFLOW=tensorflow
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
WORKDIR /app
COPY constraints.txt setup.cfg pyproject.toml LICENSE ./
COPY tf_sphereface tf_sphereface/
RUN pip install --constraint constraints.txt setuptools wheel \
    && pip install --constraint constraints.txt --no-build-isolation "$TENSORFLOW" ".[eval,export,align,search,tensorboard]"

RUN useradd --create-home --uid 10001 train
USER train
ENV HOME=/tmp
WORKDIR /runs
CMD ["tf_sphereface-train", "--help"]
