"""The request/reply role: answers `customer.balance` from DynamoDB and publishes each answer as an event."""
