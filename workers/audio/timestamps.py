"""Corrects the time stamps of packets, so that they jump only where sound is missing.

In a recording of a live stream the time stamps jump at a pause and go on from there. In a broken or spliced
recording single packets have the time stamp of another time, or the clock begins anew in the middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from stt.media.errors import Packet

# A smaller jump is left as it is: the count of the samples shows whether sound is missing.
JUMP_SECONDS = 5.0
# Packets after a jump from which it is decided whether the clock goes on from there.
AHEAD = 20

MayBeMissing = Callable[[float, float], bool]


def corrected(packets: Iterator[Packet], start: float, may_be_missing: MayBeMissing) -> Iterator[Packet]:
    """The packets of a stream, with time stamps that jump only where sound is missing.

    Args:
        packets: In the order of the file.
        start: The time at which the file begins, in seconds of its own clock.
        may_be_missing: Called with a time in seconds of the file's clock and a number of seconds. Returns
            whether so many seconds of sound may be missing before that time.
    """
    ahead: deque[Packet] = deque()
    shift, expected = 0.0, start
    while (packet := ahead.popleft() if ahead else next(packets, None)) is not None:
        if packet.pts is None:
            yield packet
            continue
        time = _time(packet) + shift
        jump = time - expected
        if abs(jump) > JUMP_SECONDS:
            ahead.extend(islice(packets, AHEAD - len(ahead)))
            if _is_stray(time - shift, expected - shift, ahead):
                time = expected  # the time stamp of this packet alone is wrong
            elif jump < 0 or not may_be_missing(time, jump):
                shift -= jump  # the clock begins anew
                time = expected
        _set(packet, time)
        expected = time + float((packet.duration or 0) * packet.time_base)
        yield packet


def _time(packet: Packet) -> float:
    return float((packet.pts or 0) * packet.time_base)


def _set(packet: Packet, time: float) -> None:
    if abs(time - _time(packet)) > 1e-6:
        packet.pts = packet.dts = round(time / float(packet.time_base))


def _is_stray(time: float, expected: float, ahead: Sequence[Packet]) -> bool:
    """Whether the time stamp of a packet is wrong: more of those ahead are near `expected` than near `time`.

    Args:
        time: The packet's own time, in seconds.
        expected: The time at which the packet before it ends, in seconds.
        ahead: The packets after it.
    """
    times = [_time(packet) for packet in ahead if packet.pts is not None]
    near = JUMP_SECONDS + sum(float((packet.duration or 0) * packet.time_base) for packet in ahead)
    near_expected = sum(abs(other - expected) <= near for other in times)
    return near_expected > sum(abs(other - time) <= near for other in times)
