"""The service at one moment, for whoever looks: what the status page and `event-service status` show."""
