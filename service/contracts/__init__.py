"""Names of the stream, the roles and their NATS users. Imports no other part of the service."""
