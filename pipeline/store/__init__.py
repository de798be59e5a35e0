"""The one SQLite database; every SQL statement of the project lives here."""
