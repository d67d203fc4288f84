"""The archiver: moves a stream's events, or a queue's messages, into a DynamoDB table, one row for each."""
