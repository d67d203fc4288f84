"""Provision your own nats-server, through its account resolver."""
