"""Everything that runs in the container, and nothing else: one image, one process per role."""

from typing import Final

__version__ = "1.2.0"
"""SemVer of the image and of every service in it, as `$SRV.INFO` reports it."""

HEALTH_PORT: Final = 8080
"""Default of the environment variable HEALTH_PORT."""

ENDED: Final = "ended"
"""Log event of the last line of a process that could not start or continue."""
