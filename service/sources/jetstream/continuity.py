"""Count the messages that a stream discarded unread, by gaps between delivery numbers and stream sequences.

A first delivery advances both the stream's sequence and the consumer's by one; a repeated delivery advances only the
consumer's. So if the stream's sequence advances by more than the number of deliveries, the stream discarded the
difference. Deliveries to other tasks show in the numbers. Only repeated deliveries to other tasks, between two
deliveries to this one, can hide as many discarded messages; those tasks see the gap between their own deliveries.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Continuity:
    discarded: int = 0
    """Messages discarded before they were delivered to any task."""
    _number: int = -1
    _sequence: int = 0
    _again: int = 0
    """Repeated deliveries since the last first delivery."""
    _latest: int = -1
    """Number of the last repeated delivery."""

    def restart(self) -> None:
        """Start over, for a recreated consumer: its numbers begin at 1 again."""
        self._number, self._sequence, self._again, self._latest = -1, 0, 0, -1

    def delivered(self, number: int, sequence: int, *, again: bool) -> None:
        """Note a delivery: its number at the consumer, its sequence in the stream, whether it is a repeated one."""
        if number == self._number + 1 and sequence == self._sequence + 1 and not (again or self._again):
            self._number, self._sequence = number, sequence  # nearly every delivery takes this path
            return
        if number <= self._number:
            return
        if again:
            self._again += 1
            self._latest = number
            return
        self._advance(number, sequence)

    def polled(self, number: int, sequence: int, first_sequence: int) -> None:
        """Note the consumer's last delivery, and the first sequence that the stream still holds."""
        if number < self._latest:
            return  # read before a delivery that this process has already seen
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
