"""The balance service: what runs in the container, and nothing else."""

__version__ = "1.0.0"
"""SemVer of the service, as `$SRV.INFO` reports it."""
