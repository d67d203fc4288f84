"""The role `archive`: moves a stream's events, or a queue's messages, into a DynamoDB table, one row each."""
