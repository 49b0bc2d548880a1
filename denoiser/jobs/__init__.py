"""Training jobs: uploaded text becomes a model, which takes over only when it is measurably better.

Everything a job leaves behind is in one data folder and whole after a kill at any moment.
"""
