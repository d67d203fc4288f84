"""Load, measurement, report: how fast the service is, where its limit is, what one request costs."""
