"""The rows of the table, over gRPC."""
