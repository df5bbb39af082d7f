"""Figures that the documentation states, and how they are measured."""
