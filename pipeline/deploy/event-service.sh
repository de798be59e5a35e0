#!/bin/sh
# The operator's command on a host where the units run: every command takes the settings of the running service.
# Install it as /usr/local/bin/event-service.
EVENTS_DATABASE_PATH=${EVENTS_DATABASE_PATH:-/var/lib/event-service/events.db}
export EVENTS_DATABASE_PATH
exec /opt/event-service/bin/event-service --env-file /etc/event-service/environment "$@"
