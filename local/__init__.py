"""The whole system on one machine: nats-server, DynamoDB engine, HTTP gateway, service."""
