"""Import from the Go service: a private copy is read, judged, and written as our own."""
