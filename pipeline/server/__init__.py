"""What the web server is made of: requests, registrations, and the gauges that are read from the database."""
