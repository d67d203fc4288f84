"""The interface's two documents, made from what the roles announce: docs/interface.md and docs/asyncapi.yaml."""
