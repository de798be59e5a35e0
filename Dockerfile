# Builds a wheel with its dependencies, then an image that holds nothing else and runs as nobody in particular.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/event-service
COPY setup.cfg pyproject.toml README.md ./
COPY pipeline pipeline
COPY stages stages
# For the metric `version`: --build-arg VCS_REVISION=$(git rev-parse HEAD) --build-arg VCS_TIME=$(git log -1 --format=%cI)
ARG VCS_REVISION VCS_TIME
RUN /opt/event-service/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/event-service /opt/event-service
RUN useradd --system --uid 10001 --home-dir /var/lib/event-service --create-home event-service
USER event-service
ENV PATH=/opt/event-service/bin:$PATH \
    EVENTS_DATABASE_PATH=/var/lib/event-service/events.db \
    EVENTS_RUNTIME_DIRECTORY=/dev/shm/event-service
VOLUME /var/lib/event-service
EXPOSE 8008
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request; host, _, port = (os.environ.get('EVENTS_LISTEN_ADDRESS') or ':8008').rpartition(':'); urllib.request.urlopen(f'http://{host or \"127.0.0.1\"}:{port}/_health', timeout=4)"]
ENTRYPOINT ["event-service"]
CMD ["supervise"]
