"""NATS for every role and for the control plane: the client, its connection, what must be there."""
