"""The DynamoDB client of the hot path. Knows no role and none of a role's variables."""
