# The `cas` command with the sample agents: worker and projector of docker-compose.yml, and every other command.
# Wheels are checked against the hashes of requirements.lock; the image gets the part of them that running needs.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.lock ./
RUN pip download --quiet --only-binary :all: --require-hashes --requirement requirements.lock --dest wheels
COPY pyproject.toml README.md ./
COPY cas_events cas_events
COPY projections projections
RUN python -m venv tools \
    && tools/bin/pip install --quiet --no-index --find-links wheels hatchling \
    && tools/bin/python -m hatchling build --target wheel --directory wheels \
    && python -m venv /opt/cas \
    && /opt/cas/bin/pip install --quiet --no-index --find-links wheels "cas-events[demo,audit,observability]"

FROM python:3.11-slim
ENV CAS_HOME=/var/lib/cas PATH=/opt/cas/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/cas --create-home cas
COPY --from=build /opt/cas /opt/cas
USER cas
WORKDIR /var/lib/cas
VOLUME /var/lib/cas
# Whatever the container runs, it is no use without its NATS server: one that greets counts as there.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s CMD ["python", "-c", "import os, socket, urllib.parse; url = urllib.parse.urlsplit(os.environ['CAS_NATS_URL']); connection = socket.create_connection((url.hostname, url.port or 4222), 3); raise SystemExit(connection.recv(5) != b'INFO ')"]
ENTRYPOINT ["cas"]
CMD ["--help"]
