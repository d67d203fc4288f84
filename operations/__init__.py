"""Tools for operators: Prometheus, Grafana, a reader of a client's archived events, and a check of the balances."""
