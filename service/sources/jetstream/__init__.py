"""A JetStream stream as a source, read through a durable consumer."""
