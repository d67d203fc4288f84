"""What a load saw while tasks started and stopped, second by second, and a chart of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pygal
from pygal.style import Style

from service.runtime.cancel import cancel
from tests.support.drills.drill import Traffic

_STYLE: Final = Style(
    background="white", plot_background="white", font_family="system-ui, sans-serif",
    colors=("#64748b", "#2563eb", "#dc2626", "#059669"), label_font_size=13, major_label_font_size=13,
    title_font_size=16, legend_font_size=13, stroke_width=2.5,
)  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """One second of all loads together; the p99 is that of the slower one."""

    sent: int
    replies: int
    failed: int
    p99_ms: float
    tasks: int


@dataclass
class Record:
    """The seconds so far. `loads` are the ones that run."""

    tasks: Callable[[], int]
    loads: list[Traffic] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            await cancel(keeping)

    def calm(self, seconds: int, p99_ms: float) -> bool:
        """Return whether the last `seconds` had every request answered, with a p99 below the bound."""
        recent = self.moments[-seconds:]
        return len(recent) == seconds and all(moment.failed == 0 and 0 < moment.p99_ms < p99_ms for moment in recent)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(1)
            last = [load.totals.timeline[-1] for load in self.loads if load.totals.timeline]
            self.moments.append(
                Moment(
                    sum(second.sent for second in last),
                    sum(second.replies for second in last),
                    sum(second.errors.total() for second in last),
                    max((second.p99_ms for second in last), default=0.0),
                    self.tasks(),
                )
            )


def table(moments: Sequence[Moment], every_s: int) -> str:
    """Return the record as text, a line for every few seconds."""
    lines = ["second  sent/s  answered/s  failed/s  tasks  p99 in ms"]
    for at_s in range(0, len(moments), every_s):
        moment = moments[at_s]
        counts = f"{moment.sent:6,}  {moment.replies:10,}  {moment.failed:8,}"
        lines.append(f"{at_s:6}  {counts}  {moment.tasks:5}  {moment.p99_ms:9,.0f}")
    return "\n".join(lines)


def draw(moments: Sequence[Moment], path: Path) -> None:
    """Draw requests on the left-hand axis; tasks, and p99 in tenths of a second, on the right-hand one."""
    top = 1000 * math.ceil(max(moment.replies for moment in moments) / 1000)
    chart = pygal.XY(
        style=_STYLE, js=(), width=1000, height=420, explicit_size=True, dots_size=1.5, legend_at_bottom=True,
        truncate_legend=-1, include_x_axis=True, title="Tasks added and removed by the deployed rules",
        x_title="second", y_title="requests/s", range=(0, top), secondary_range=(0, 10),
        value_formatter=lambda value: f"{value:,.6g}", x_value_formatter=lambda value: f"{value:,.6g}",
    )  # fmt: skip
    chart.y_labels = [top * fifth / 5 for fifth in range(6)]
    chart.add("sent/s", _over_time(moment.sent for moment in moments))
    chart.add("answered/s", _over_time(moment.replies for moment in moments))
    chart.add("p99 in 0.1 s (right)", _over_time(moment.p99_ms / 100 for moment in moments), secondary=True)
    chart.add("tasks (right)", _over_time(moment.tasks for moment in moments), secondary=True)
    path.write_bytes(chart.render())


def _over_time(values: Iterable[float]) -> list[tuple[int, float]]:
    return list(enumerate(values))
