"""The DynamoDB client of the hot path. It knows no role and no role's variables."""
