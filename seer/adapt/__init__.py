"""Regimes that adapt a backbone by chains of the trainings that there are."""
