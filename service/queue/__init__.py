"""The role `queue`: a sidecar that hands messages to the container beside it, over gRPC."""
