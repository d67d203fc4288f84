"""An SQS queue as a source."""
