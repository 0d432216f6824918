"""The values beyond which a run is not well. Training judges by them, and the report draws them
into its charts; `docs/health.md` says what each means.
"""

LEAST_SPREAD = 0.05  # `embedding_std` below it: collapse
LEAST_RANK = 2.0  # `effective_rank`; healthy runs begin with 4 or 5
CHANCE_MARGIN = 0.01  # a loss so near to ln K, as a share of it
FLATTEST = 0.995  # `assignment_entropy` above this share of ln K
MOST_UNEQUAL = 0.5  # `sinkhorn_imbalance`
LEAST_PERPLEXITY = 0.1  # `perplexity` below this share of the smaller of K and batch
CHANCE = 0.05  # of p, below which a difference of two scores is called larger than chance
JUDGED_FROM = (
    0.5  # share of a run from which a score below raw pixels is told: networks begin there
)
