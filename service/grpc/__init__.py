"""A gRPC server of a role: where it listens, its certificates, its health and reflection. Knows no call of it."""
