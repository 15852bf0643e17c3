"""Events of a run as tests compare them: names and fields."""

from actors.coordination.events import TimedEvent, parse_event


def recorder(events):
    """Return what receives events and appends the name and the fields of each to `events`."""
    return lambda event: events.append((event.event, event.fields()))


def timed(event, time, /, **fields):
    """Return the event of this name with these fields and its time."""
    parsed = parse_event(event, fields)
    assert parsed is not None, (event, fields)
    return TimedEvent(time, parsed)
