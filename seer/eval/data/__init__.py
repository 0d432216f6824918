"""Labelled data sets as their owners lay them out, and what a folder of them can run."""
