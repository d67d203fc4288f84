"""What the role `devices` reports to CloudWatch once a minute: alarms, the dashboard and the bill know these names."""

from __future__ import annotations

from typing import Final

UNITS: Final = {
    "DevicesReadings": "Count",
    "DevicesReadingsWaiting": "Count",
    "DevicesReadingAge": "Seconds",
    "DevicesDeadLetters": "Count",
    "DevicesDeadLettersRefused": "Count",
    "DevicesReportFailures": "Count",
    "DevicesOutageAge": "Seconds",
    "DevicesOnline": "Count",
    "DevicesSilence": "Seconds",
}
"""Every CloudWatch metric of this role -> its unit.

`DevicesReadingAge` is the age of the oldest reading, connect or will that this task works on. `DevicesSilence` is the
time since this task received a reading, or since it began; `DevicesOutageAge` the age of the oldest outage that no task
has reported. `DevicesReadingsWaiting` and `DevicesOnline` are of all tasks, and left out while they are not known. The
others are counts since the last report.
"""
