"""How a client reaches a server and reconnects, where that differs from nats-py."""
