# One image, many commands: `python -m payment_rpc`, `python -m order_rpc`, `python -m seckill_rpc`, `python -m merchant_rpc`, `python -m gateway`, `python -m sandbox`, `paymesh migrate` …
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/paymesh
ENV PATH=/opt/paymesh/bin:$PATH
WORKDIR /src
COPY requirements.lock ./
RUN python -m pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY generated generated
COPY mesh mesh
COPY payment_rpc payment_rpc
COPY order_rpc order_rpc
COPY seckill_rpc seckill_rpc
COPY merchant_rpc merchant_rpc
COPY gateway gateway
COPY sandbox sandbox
COPY paymesh_cli paymesh_cli
RUN python -m pip install --no-deps --no-build-isolation ./generated . && python -m compileall -q /opt/paymesh

FROM python:${PYTHON_VERSION}-slim
# Folders that become volumes: a new volume takes over owner and mode of the folder in the image.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin paymesh \
    && install -d -o paymesh -g paymesh /var/lib/paymesh /var/lib/sandbox /secrets
COPY --from=build /opt/paymesh /opt/paymesh
COPY deploy/compose /opt/paymesh/deploy
ENV PATH=/opt/paymesh/bin:/opt/paymesh/deploy:$PATH \
    PAYMESH_VAR_DIR=/var/lib/paymesh \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/paymesh
STOPSIGNAL SIGTERM
CMD ["paymesh", "--help"]
