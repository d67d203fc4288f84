"""The role `queue`: a sidecar that hands messages over gRPC to the container beside it."""
