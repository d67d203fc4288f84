"""The DynamoDB client of the hot path."""
