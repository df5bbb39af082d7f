"""From a model and images to class activation maps, without Lightning."""

from lightning_cam.explanation.conserved import adds_up, with_next_best
from lightning_cam.explanation.explained import Explanation
from lightning_cam.explanation.request import find_methods
from lightning_cam.explanation.run import explain

__all__ = ["Explanation", "adds_up", "explain", "find_methods", "with_next_best"]
