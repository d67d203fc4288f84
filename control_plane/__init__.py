"""Provision what the service needs in NATS: account, users, credentials, bucket and stream."""
