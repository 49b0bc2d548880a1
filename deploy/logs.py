"""What the containers of an endpoint printed, from CloudWatch."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from deploy.aws import Aws

STREAMS = 5  # newest containers to look at


def last_lines(aws: Aws, group: str, count: int) -> list[str]:
    """The last `count` lines of the newest containers, oldest first; none where nothing was printed."""
    found = aws.read("logs", "DescribeLogStreams", logGroupName=group, orderBy="LastEventTime", descending=True)
    events: list[dict[str, Any]] = []
    for stream in itertools.islice(found["logStreams"] if found else [], STREAMS):
        place = {"logGroupName": group, "logStreamName": stream["logStreamName"]}
        page = aws.read("logs", "GetLogEvents", **place, limit=count, startFromHead=False)
        events += page["events"] if page else []
    return [_line(event) for event in sorted(events, key=_time)[-count:]]


def follow(aws: Aws, group: str, pause: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """New lines as they come, for ever. A line may come late, so each look goes back a minute."""
    since, seen = int(time.time() * 1000), set[str]()
    while True:
        events = list(aws.pages("logs", "FilterLogEvents", "events", logGroupName=group, startTime=since - 60_000))
        for event in sorted(events, key=_time):
            if event["eventId"] not in seen:
                seen.add(event["eventId"])
                yield _line(event)
        since = max([since, *(event["timestamp"] for event in events)])
        sleep(pause)


def _time(event: dict[str, Any]) -> int:
    return int(event["timestamp"])


def _line(event: dict[str, Any]) -> str:
    return str(event["message"]).rstrip()
