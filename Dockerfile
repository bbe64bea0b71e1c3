# One image for web, worker, beat, watch and console. Build: docker build -t kvmweb .
FROM debian:12-slim AS base
ENV DEBIAN_FRONTEND=noninteractive \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy

FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc gettext libc6-dev libvirt-dev pkg-config python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9
WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN /opt/uv/bin/uv sync --frozen --no-dev --python /usr/bin/python3
COPY . .
RUN KVMWEB_SECRET_KEY=build KVMWEB_VAR=/app/var /app/.venv/bin/python manage.py compilemessages --ignore=.venv \
    && KVMWEB_SECRET_KEY=build KVMWEB_VAR=/app/var /app/.venv/bin/python manage.py collectstatic --no-input

FROM base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libvirt0 openssh-client osinfo-db procps python3 qemu-utils util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /var/lib/kvmweb --uid 990 kvmweb
WORKDIR /app
COPY --from=build /app /app
RUN mkdir -p /var/lib/kvmweb/images && cp -a /app/var/static /app/static-built \
    && chown -R kvmweb:kvmweb /var/lib/kvmweb
ENV KVMWEB_VAR=/var/lib/kvmweb \
    KVMWEB_STATIC_ROOT=/app/static-built \
    PATH=/app/.venv/bin:$PATH
USER 990
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=40s --retries=4 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["uvicorn", "kvmweb.asgi:application", "--host=0.0.0.0", "--port=8000", "--loop=uvloop", \
     "--ws-per-message-deflate=false", "--ws-max-size=1048576", "--no-proxy-headers", \
     "--no-access-log"]
