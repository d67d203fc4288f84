"""Programs that the service is compared with: an echo, plain implementations, and the same design in Go."""
