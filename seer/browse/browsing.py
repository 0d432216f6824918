"""A data set through a backbone, as a page on this machine."""

from collections.abc import Callable
from contextlib import suppress

from seer.browse import landscape
from seer.browse.answers import Answers
from seer.browse.collection import collect
from seer.browse.inquiry import Study
from seer.browse.web_server import Server
from seer.eval.pile import Pile
from seer.eval.probes.options import FeatureConfig


def serve(
    spec: str, pile: Pile, config: FeatureConfig, host: str, port: int, tell: Callable[[str], None]
) -> None:
    """Compute the features, and answer until Ctrl-C.

    Args:
        spec: MODEL, as `seer.eval.pixels.load` takes it.

    Raises:
        InputError: as `collect` and `Server`.
    """
    with Server(host, port) as server:  # a port that cannot be used is told before the work
        collection = collect(spec, pile, config)
        study = Study(collection, spec)
        server.answers = Answers(study)
        tell(f"{len(collection):,} images through {collection.model.label}: {server.url}")
        if collection.left_out:
            tell(
                f"left out {collection.left_out:,} images that cannot be decoded, or whose features are all 0"
            )
        if not landscape.has_umap():
            tell("the map shows the main axes (PCA); with umap-learn installed it would be UMAP's")
        if server.is_open:
            tell("whoever reaches this machine can see the images: there is no password")
        tell("Ctrl-C ends it")
        study.begin()
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)
