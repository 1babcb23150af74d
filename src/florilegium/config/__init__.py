"""Settings: what there is to set, the checks, the files. No torch here: a mistake is told in half a second."""

from florilegium.config.checks import TRACKERS, make_config
from florilegium.config.files import as_dict, dump_config, read_config
from florilegium.config.kernel_names import named_kernels
from florilegium.config.of_run import read_run_config
from florilegium.config.renamed import RENAMED, current_setting, current_settings, settings_of_run
from florilegium.config.sampling import SamplingSettings
from florilegium.config.settings import DEFAULT_TEMPLATE, TrainConfig

__all__ = [
    "DEFAULT_TEMPLATE",
    "RENAMED",
    "TRACKERS",
    "SamplingSettings",
    "TrainConfig",
    "as_dict",
    "current_setting",
    "current_settings",
    "dump_config",
    "make_config",
    "named_kernels",
    "read_config",
    "read_run_config",
    "settings_of_run",
]
