"""What runs inside every process of the service under attack."""
