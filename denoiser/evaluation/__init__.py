"""Figures of a model beside its baselines, as a report and as pictures."""
