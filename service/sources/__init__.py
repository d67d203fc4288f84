"""Sources of messages to process and acknowledge: a JetStream stream or an SQS queue."""
