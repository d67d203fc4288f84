"""What a role reports of itself besides its logs: metrics for Prometheus and CloudWatch, and spans."""
