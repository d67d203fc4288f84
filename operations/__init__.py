"""For operators: Prometheus, Grafana, and what a client's archived events were."""
