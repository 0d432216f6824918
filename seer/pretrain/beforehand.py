"""What a run that is launched elsewhere would refuse, told before it is queued; first what needs no
torch, which takes seconds to import.
"""

from pathlib import Path

from seer.pretrain.length import at_any_length, foreseen
from seer.pretrain.recipe import check_run_dir, check_settings, check_start, load_config
from seer.pretrain.scoring import check_labels
from seer.pretrain.taken_images import manifest_of


def preview(recipe: str, overrides: list[str], ranks: int, allow_env: bool = False) -> Path:
    """Check what `ranks` processes elsewhere would refuse; the run's directory.

    Raises:
        InputError: in one line, what they would.
    """
    config = load_config(recipe, overrides, allow_env)
    check_settings(at_any_length(config), ranks)
    config = foreseen(config)
    check_settings(config, ranks)
    check_start(config)
    check_run_dir(config)
    manifest = None
    if Path(config.data).parent.is_dir():  # or else it is in a store, or on the other hosts alone
        manifest = manifest_of(config)
    if Path(config.score.data).parent.is_dir():
        check_labels(config.score)

    from seer.pretrain.rehearsal import check_masks, rehearse

    if manifest is not None:
        check_masks(config, manifest)
    rehearse(config, ranks)
    return Path(config.run_dir)
