"""What a model has learned to look at, as sentences: statistics, patterns, suspicions and their proof.

Arrays and classes in, findings out; no torch and no Lightning here.
"""

from lightning_cam.findings.cohort import Cohort, CohortLook
from lightning_cam.findings.proof import Classify
from lightning_cam.findings.sentences import FINDINGS, Finding, as_markdown, findings, register_finding
from lightning_cam.findings.tracker import State, Tracker

__all__ = [
    "FINDINGS",
    "Classify",
    "Cohort",
    "CohortLook",
    "Finding",
    "State",
    "Tracker",
    "as_markdown",
    "findings",
    "register_finding",
]
