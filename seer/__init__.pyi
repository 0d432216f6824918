from seer.api import build_shards as build_shards
from seer.api import embed as embed
from seer.api import evaluate as evaluate
from seer.api import load_model as load_model
from seer.api import load_shards as load_shards
from seer.api import pretrain as pretrain
from seer.errors import InputError as InputError

__version__: str
