"""NATS for every role and for the control plane: the client, its connection, and checks of what a role needs."""
