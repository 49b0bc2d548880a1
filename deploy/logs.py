"""What the containers of an endpoint printed, from CloudWatch."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from deploy.aws import Aws

STREAMS = 5  # newest containers to look at
LATE_MS = 60_000


def last_lines(aws: Aws, group: str, count: int) -> list[str]:
    """The last `count` lines of the newest containers, oldest first; none where nothing was printed."""
    return [_line(event) for event in _last(aws, group, count)]


def _last(aws: Aws, group: str, count: int) -> list[dict[str, Any]]:
    found = aws.read("logs", "DescribeLogStreams", logGroupName=group, orderBy="LastEventTime", descending=True)
    events: list[dict[str, Any]] = []
    for stream in itertools.islice(found["logStreams"] if found else [], STREAMS):
        place = {"logGroupName": group, "logStreamName": stream["logStreamName"]}
        page = aws.read("logs", "GetLogEvents", **place, limit=count, startFromHead=False)
        events += page["events"] if page else []
    return sorted(events, key=_time)[-count:]


def follow(
    aws: Aws, group: str, count: int, pause: float, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """The last `count` lines, then new ones as they come, for ever.

    A line may come late, so each look goes back a minute, but never over those first lines again.
    """
    last = _last(aws, group, count)
    yield from map(_line, last)
    start = _time(last[-1]) + 1 if last else 0
    since, seen = int(time.time() * 1000), set[str]()
    while True:
        place = {"logGroupName": group, "startTime": max(start, since - LATE_MS)}
        events = sorted(aws.pages("logs", "FilterLogEvents", "events", **place), key=_time)
        yield from (_line(event) for event in events if event["eventId"] not in seen)
        seen = {event["eventId"] for event in events}
        since = max([since, *map(_time, events)])
        sleep(pause)


def _time(event: dict[str, Any]) -> int:
    return int(event["timestamp"])


def _line(event: dict[str, Any]) -> str:
    return str(event["message"]).rstrip()
