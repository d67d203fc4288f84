"""The base of every role: process, settings, logs, health, metrics. It knows no NATS, balance, table or subject."""
