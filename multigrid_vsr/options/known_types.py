"""Names of types in an option file that are known without BasicSR: this project's own, and BasicSR's for video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multigrid_vsr.core.errors import OptionError

MODEL_TYPES = ('MultigridVideoModel', 'MultigridVideoGANModel')
DATASET_TYPES = ('MultigridREDSDataset', 'MultigridVimeo90KDataset')
TEST_SET_TYPES = ('MultigridVideoTestDataset',)
STOCK_TEST_SETS = (  # of BasicSR
    'VideoTestDataset', 'VideoTestDUFDataset', 'VideoRecurrentTestDataset', 'VideoTestVimeo90KDataset',
)  # fmt: skip
STOCK_MODELS = {  # and what takes their place
    'VideoRecurrentModel': 'MultigridVideoModel',
    'VideoRecurrentGANModel': 'MultigridVideoGANModel',
    'EDVRModel': 'MultigridVideoModel',
    'VideoBaseModel': 'MultigridVideoModel',
    'RecurrentMixPrecisionRTModel': 'MultigridVideoModel',  # of PSRT and its descendants
}
STOCK_DATASETS = {
    'REDSRecurrentDataset': 'MultigridREDSDataset',
    'REDSDataset': 'MultigridREDSDataset',
    'Vimeo90KRecurrentDataset': 'MultigridVimeo90KDataset',
    'Vimeo90KDataset': 'MultigridVimeo90KDataset',
}
DATASETS_OF_WINDOWS = ('REDSDataset', 'Vimeo90KDataset')  # with the ground truth of the frame in the middle
_GAN_MODELS = ('MultigridVideoGANModel', 'VideoRecurrentGANModel')


def is_known_dataset(dataset_opt: Mapping[str, Any]) -> bool:
    """Whether all options of a training set are known: it is one of this project or of BasicSR, not the user's own."""
    return dataset_opt.get('type') in (*DATASET_TYPES, *STOCK_DATASETS)


def is_gan(opt: Mapping[str, Any]) -> bool:
    """Whether a run trains a discriminator: by its model, or by its network where the model is the user's own."""
    model = opt.get('model_type')
    return model in _GAN_MODELS or (model not in (*MODEL_TYPES, *STOCK_MODELS) and bool(opt.get('network_d')))


def wrong_model(model: Any) -> OptionError:
    """The line for a model that cannot follow a schedule."""
    return OptionError(
        'model_type',
        f'be {", ".join(MODEL_TYPES)} or derived from one of them or MultigridMixin beside a `multigrid` block',
        model,
        f'Set model_type: {STOCK_MODELS.get(model, MODEL_TYPES[0])}, or delete the block.',
    )
