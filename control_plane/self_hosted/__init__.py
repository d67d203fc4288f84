"""Your own nats-server, through its account resolver."""
