"""The servers of the local system and of the tests: nats-server, DynamoDB, moto; their ports and certificates."""
