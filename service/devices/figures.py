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

`DevicesReadingAge` is the age of the oldest message that `devices-data` or `devices-life` has not acknowledged, and is
left out when it is not known. `DevicesSilence` is the time since this task received a reading; `DevicesOutageAge` the
age of the oldest outage that is not reported. The others are counts since the last report, or as they are now.
"""
