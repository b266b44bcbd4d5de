"""The table of options that name modules of the network: those that stay fixed, and those that are computed twice."""

from __future__ import annotations

from multigrid_vsr.options.kinds import TEXT, Option, list_of

MODULE_OPTIONS = (
    Option(
        'train.fix_modules',
        list_of(TEXT),
        'Parameters, by a part of their name, that `fix_flow` holds fixed and whose rate `flow_lr_mul` multiplies.',
        default="BasicSR's: `spynet` and `edvr` are held fixed, the rate is that of `spynet`",
        rule='beside `fix_flow` or `flow_lr_mul`; each is in the name of a parameter',
    ),
    Option(
        'train.checkpoint_modules',
        list_of(TEXT),
        'Modules, by name or a pattern such as `trunk.*`, that keep their input alone and are computed again for the '
        'gradient: less memory, more time, the same gradient.',
        default='none',
        rule='each names a module of `network_g`; not beside `compile`',
    ),
)
