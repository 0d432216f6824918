"""seer: pretrain vision backbones on uncurated images, and prove what they are worth."""

__version__ = "0.1.0"
