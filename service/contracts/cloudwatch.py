"""The names of the roles' figures in CloudWatch."""

from typing import Final

METRICS_NAMESPACE: Final = "CustomerBalance"
METRICS_DIMENSION: Final = "Table"
"""Its value is the name of the role's table: the one name that the environment gives a task, and that no two
deployments share.
"""
