"""What the service is measured beside: an echo, the plain ways, and the same design in Go."""
