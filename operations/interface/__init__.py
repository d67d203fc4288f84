"""The interface's two documents, generated from what the roles announce: docs/interface.md and docs/asyncapi.yaml."""
