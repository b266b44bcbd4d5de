"""``RecurrentMixPrecisionRTModel``, which trains PSRT and its descendants: what it does by itself, as options.

The source is XPixelGroup/RethinkVSRAlignment, models/ and recurrent_mix_precision_train.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODEL_TYPE = 'RecurrentMixPrecisionRTModel'
COMMENTS = {
    'amp': 'half precision with a gradient scaler; the losses stay in float32',
    'fix_modules': 'in the names of what fix_flow and flow_lr_mul are for',
}
_FIXED = ['spynet', 'deform']
_WITH_BOTH = ('BasicVSRPlusPlus', 'VRT', 'RVRT')  # archs


def train_options(opt: Mapping[str, Any], reasons: list[str]) -> dict[str, Any]:
    """What this model adds to the ``train`` block of a run.

    Args:
        opt: Options of a run of this model.
        reasons: Gets a line for each decision.
    """
    train_opt, arch = opt['train'], opt['network_g'].get('type')
    new: dict[str, Any] = {}
    if train_opt.get('amp') is None:
        new['amp'] = 'fp16'
        reasons.append('train.amp: fp16 with a gradient scaler, as that model has it; the losses are in float32 here')
    if train_opt.get('fix_flow') or train_opt.get('flow_lr_mul', 1) != 1:
        if arch in _WITH_BOTH:
            new['fix_modules'] = _FIXED
        written = _FIXED if arch in _WITH_BOTH else f'left out, so spynet: write {_FIXED} if {arch} has both'
        reasons.append(f'train.fix_modules: {written}; that model fixes and slows parameters with these names')
    if opt.get('use_static_graph') and train_opt.get('fix_flow'):
        reasons.append('use_static_graph: stays; where fix_flow ends the network is wrapped anew, and the run goes on')
    return new
