"""One relay and its sync in simulated time: whole lives of a crawl, in seconds, without a socket or a thread."""
