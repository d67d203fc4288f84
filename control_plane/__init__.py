"""Provisions what the service needs of NATS: account, users, credentials, bucket and stream."""
