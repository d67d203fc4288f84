"""What a stream discarded unread, found by gaps in the numbers of deliveries.

A first delivery advances the stream's sequence and the consumer's, both by one; a repeated one the consumer's alone.
So where the stream's advances by more than there were deliveries, the stream discarded the difference. Deliveries to
other tasks are seen by their numbers. Only repeated deliveries to them, between two deliveries to this one, could hide
as many discarded messages; the other tasks see the same gap between deliveries of their own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Continuity:
    discarded: int = 0
    """Messages that no task was ever given."""
    _number: int = -1
    _sequence: int = 0
    _again: int = 0
    """Repeated deliveries since the last first one."""
    _latest: int = -1
    """The number of the last repeated delivery."""

    def restart(self) -> None:
        """The consumer was made anew: its numbers begin again."""
        self._number, self._sequence, self._again, self._latest = -1, 0, 0, -1

    def delivered(self, number: int, sequence: int, *, again: bool) -> None:
        """A message came: its number among the consumer's deliveries, its sequence in the stream."""
        if number == self._number + 1 and sequence == self._sequence + 1 and not (again or self._again):
            self._number, self._sequence = number, sequence  # as nearly all are
            return
        if number <= self._number:
            return
        if again:
            self._again += 1
            self._latest = number
            return
        self._advance(number, sequence)

    def polled(self, number: int, sequence: int, first_sequence: int) -> None:
        """The consumer's last delivery, and the first message that the stream still has."""
        if number < self._latest:
            return  # read after deliveries that it does not know of
        if self._number < 0:
            self._number, self._sequence, self._again = number, sequence, 0
        elif number > self._number:
            self._advance(number, sequence)
        if number == self._number and first_sequence - 1 > self._sequence:
            self.discarded += first_sequence - 1 - self._sequence
            self._sequence = first_sequence - 1

    def _advance(self, number: int, sequence: int) -> None:
        if self._number >= 0:
            deliveries = number - self._number - self._again
            self.discarded += max(0, sequence - self._sequence - deliveries)
        self._number, self._sequence, self._again = number, max(sequence, self._sequence), 0
