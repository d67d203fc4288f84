"""What a deployment is made of: the stack's template, and Kubernetes manifests."""
