"""The settings of a deployment, the code that reads them, and Kubernetes manifests."""
