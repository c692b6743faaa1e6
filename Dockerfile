# CPU: docker build --build-arg TORCH_INDEX=URL -t msunas .    URL is an index of torch's wheels without CUDA
# GPU: docker build --build-arg TORCH=cuda -t msunas .         torch's usual wheels, which contain CUDA
FROM python:3.11-slim
ARG TORCH=cpu
ARG TORCH_INDEX=
WORKDIR /opt/msunas
COPY requirements.txt requirements.lock ./
COPY scripts/setup_env.sh scripts/
RUN bash -euo pipefail -c '. scripts/setup_env.sh; setup_env requirements.txt'
COPY . .
RUN .venv/bin/python -m pip install --no-deps --no-build-isolation .
ENV PATH=/opt/msunas/.venv/bin:$PATH
WORKDIR /runs
CMD ["msunas", "--version"]
