"""Names of the roles' metrics in CloudWatch."""

from typing import Final

METRICS_NAMESPACE: Final = "CustomerBalance"
METRICS_DIMENSION: Final = "Table"
"""Its value is the name of the role's table: the only name in a task's environment that no two deployments share.
"""
