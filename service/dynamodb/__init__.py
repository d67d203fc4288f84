"""The DynamoDB client of the hot path. Knows no role and no variable of one."""
