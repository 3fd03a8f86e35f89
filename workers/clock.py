"""Time stamps made steady: what is a pause stays one, and what is a clock gone wrong does not.

A recording of a live stream has pauses, whose time stamps jump and go on from there. A broken or a spliced
one has packets from another time among the others, or a clock that begins anew in the middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from stt.media import Packet

# A smaller jump is not looked at: the samples show whether sound is missing.
JUMP_SECONDS = 5.0
# Packets after a jump that tell whether the clock goes on from there.
AHEAD = 20

Believes = Callable[[float, float], bool]


def steady(packets: Iterator[Packet], start: float, believes: Believes) -> Iterator[Packet]:
    """The packets of a stream, with time stamps that jump only where sound is missing.

    Args:
        packets: in the order of the file.
        start: seconds at which the file begins on its own clock.
        believes: whether sound may be missing up to a time, in seconds of the file's clock, by so many.
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
                time = expected  # a packet from another time
            elif jump < 0 or not believes(time, jump):
                shift -= jump  # a clock that begins anew
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
    """Whether the packets ahead go on from the time that was expected, rather than from that of a packet."""
    times = [_time(packet) for packet in ahead if packet.pts is not None]
    near = JUMP_SECONDS + sum(float((packet.duration or 0) * packet.time_base) for packet in ahead)
    return sum(abs(one - expected) <= near for one in times) > sum(abs(one - time) <= near for one in times)
