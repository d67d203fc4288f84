"""For operators: Prometheus, Grafana, what a client's archived events were, and whether balances are right."""
