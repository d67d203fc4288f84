"""What the role answers over NATS."""
