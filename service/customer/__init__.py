"""The request/reply role: answers requests about clients from DynamoDB and publishes each balance as an event."""
