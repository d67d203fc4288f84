"""What a deployment is told, and its one reader; Kubernetes manifests beside it."""
