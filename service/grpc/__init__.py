"""Parts of any role's gRPC server: address, certificates, options, health and reflection, but none of its calls."""
