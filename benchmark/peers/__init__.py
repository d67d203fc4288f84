"""Programs to compare the service with: an echo, plain implementations, and the same design in Go."""
