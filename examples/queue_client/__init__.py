"""A business container that handles messages by way of the sidecar, and knows neither NATS nor AWS."""
