"""An SQS queue's messages."""
