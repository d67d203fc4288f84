"""The settings of a deployment and their one reader, and Kubernetes manifests."""
