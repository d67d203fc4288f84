"""The base of every role: process, settings, logs, health, metrics. Knows no NATS, balance, table or subject."""
