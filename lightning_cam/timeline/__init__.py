"""The versioned record of the maps of a training run: write it, read it. Needs numpy, and Pillow for the images."""

from lightning_cam.timeline.reader import Timeline, find_timelines, read_timeline
from lightning_cam.timeline.writer import TimelineWriter

__all__ = ["Timeline", "TimelineWriter", "find_timelines", "read_timeline"]
