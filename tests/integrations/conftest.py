"""transformers works offline here: models are made from configurations, with random weights."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
