"""How a client reaches a server and comes back to one: what nats-py does otherwise."""
