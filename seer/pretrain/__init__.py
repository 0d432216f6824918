"""Pretraining. The folder has the name of what `import seer` offers, so it can be called as that:
`seer.pretrain(RECIPE, ...)` is `seer.api.pretrain`.
"""

import inspect
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


class _Pretrain(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Path:
        return import_module("seer.api").pretrain(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(import_module("seer.api").pretrain)


sys.modules[__name__].__class__ = _Pretrain
