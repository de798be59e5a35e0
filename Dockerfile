# Builds a virtual environment, then an image that holds nothing else and runs as nobody in particular.
# By tag, so that a build takes the newest patch; give a digest to build the very same again:
# --build-arg PYTHON_IMAGE=python@sha256:…
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv /opt/event-service
# A layer of its own: it changes with the lock file only. Each file is what its hash says.
COPY pipeline/deploy/requirements.lock requirements.lock
RUN /opt/event-service/bin/pip install --no-cache-dir --no-compile --require-hashes -r requirements.lock
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY pipeline pipeline
COPY stages stages
# For the metric `version`: --build-arg VCS_REVISION=$(git rev-parse HEAD) --build-arg VCS_TIME=$(git log -1 --format=%cI)
ARG VCS_REVISION VCS_TIME
RUN /opt/event-service/bin/pip install --no-cache-dir --no-compile --no-deps .
# The image is read-only where it runs: what is not compiled now is compiled at every start.
RUN /opt/event-service/bin/python -m compileall -q /opt/event-service/lib

FROM ${PYTHON_IMAGE}
ARG VCS_REVISION VCS_TIME
LABEL org.opencontainers.image.title="event-service" \
      org.opencontainers.image.description="Nostr relays to Google Cloud Pub/Sub and a target relay" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${VCS_REVISION}" \
      org.opencontainers.image.created="${VCS_TIME}"
COPY --from=build /opt/event-service /opt/event-service
# Group and user have the number that kubernetes.yaml runs them by.
RUN groupadd --gid 10001 event-service \
    && useradd --uid 10001 --gid 10001 --shell /usr/sbin/nologin --home-dir /var/lib/event-service --create-home event-service
# Numbers, so that an orchestrator can see that it is not root.
USER 10001:10001
ENV PATH=/opt/event-service/bin:$PATH \
    EVENTS_DATABASE_PATH=/var/lib/event-service/events.db \
    EVENTS_RUNTIME_DIRECTORY=/dev/shm/event-service
VOLUME /var/lib/event-service
EXPOSE 8008
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request; host, _, port = (os.environ.get('EVENTS_LISTEN_ADDRESS') or ':8008').rpartition(':'); urllib.request.urlopen(f'http://{host or \"127.0.0.1\"}:{port}/_health', timeout=4)"]
ENTRYPOINT ["event-service"]
CMD ["supervise"]
