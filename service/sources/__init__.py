"""Messages to be worked on and acknowledged: a JetStream stream's, or an SQS queue's."""
