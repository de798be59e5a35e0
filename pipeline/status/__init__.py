"""The service at one moment: what the status page and `event-service status` show."""
