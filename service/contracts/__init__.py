"""Names of the stream, the roles and their users. Imports nothing of the service."""
