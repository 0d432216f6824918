"""Several models on several data sets by several tasks: the transfer benchmark (Ericsson et al. 2021,
arXiv:2011.13377), for models of one's own."""
