"""What is said of backbones besides how often they are right, and of scores that are there. The files on
scores need numpy and result files, no torch.
"""
