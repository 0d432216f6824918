"""What is said of scores that are there: numpy and result files, no torch."""
