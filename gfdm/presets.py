"""Presets of the fractional family: flag values by name. An explicit flag beats a preset, a preset beats a default.

The gfdm-*, vp- and ve- presets have the published values (README of arXiv 2310.17638's code); the small ones are for
two CPU cores and predict v: at the high noise levels where few-step samplers start, a small network's error in eps is
multiplied by sigma (up to 118 here) on its way to x0_hat, its error in v is not.
"""

from common.config.length import of_length
from common.config.presets import About

Preset = dict[str, object]

CIFAR10: Preset = {  # 58.7 M parameters
    "data_name": "cifar10",
    "model_channels": 128,
    "num_res_blocks": 4,
    "attn_resolutions": (8,),
    "channel_mult": (1, 2, 2, 2),
    "dropout": 0.1,
    "use_ema": True,
    "batch_size": 128,
    "lr": 2e-4,
    "train_steps": 1000000,
    "val_check_interval": 10000,
    "log_model_every_n": 100000,
}

SMALL: Preset = {
    "num_res_blocks": 1,
    "dropout": 0.0,
    "prediction": "v",
    "batch_size": 64,
    "lr": 1e-3,
    **of_length(6000),
    "use_ema": True,
    "val_check_interval": 1000,
    "log_model_every_n": 2000,
    "checkpoint_every": 500,
    "prior": "data",
}

SMALL_28: Preset = {**SMALL, "model_channels": 24, "attn_resolutions": (4,), "channel_mult": (1, 2, 3)}


def fvp(hurst: float, num_aug: int) -> Preset:
    """FVP(H, K)."""
    return {"dynamics": "fvp", "hurst": hurst, "num_aug": num_aug}


PRESETS: dict[str, Preset] = {
    "digits": {
        **fvp(0.9, 2),
        "data_name": "digits",
        "model_channels": 32,
        "num_res_blocks": 1,
        "attn_resolutions": (2,),
        "channel_mult": (1, 2, 2),
        "dropout": 0.0,
        "prediction": "v",
        "batch_size": 128,
        "lr": 2e-3,
        **of_length(900),
        "val_check_interval": 450,
        "log_model_every_n": 900,
        "checkpoint_every": 225,
    },
    # uniform times: log-normal noise levels gain nothing on digits, and lose much on MNIST (docs/results.md)
    "mnist-small": {**SMALL_28, **fvp(0.9, 3), "data_name": "mnist"},
    "fashionmnist-small": {**SMALL_28, **fvp(0.9, 2), "data_name": "fashionmnist"},
    "cifar10-small": {
        **SMALL,
        **fvp(0.9, 2),
        "data_name": "cifar10",
        "model_channels": 32,
        "attn_resolutions": (4,),
        "channel_mult": (1, 2, 2),
        "flip": True,
    },
    "functions-small": {  # 0.6 M parameters
        **SMALL,
        **fvp(0.9, 2),
        "data_name": "arrays",
        "model_name": "unet1d",
        "model_channels": 32,
        "channel_mult": (1, 2, 2, 2),
        "batch_size": 32,
        "lr": 2e-3,
        "train_steps": 7000,
        "ema_decay": (0.995,),
        "ema_every": 5,
    },
    "gfdm-mnist": {
        **fvp(0.9, 3),
        "data_name": "mnist",
        "model_channels": 64,
        "num_res_blocks": 3,
        "attn_resolutions": (4, 2),
        "channel_mult": (1, 2, 4),
        "dropout": 0.0,
        "use_ema": False,
        "batch_size": 1024,
        "lr": 1e-4,
        "train_steps": 50000,
        "val_check_interval": 500,
        "log_model_every_n": 50000,
    },
    "gfdm-cifar10": {**CIFAR10, **fvp(0.9, 2)},  # the best of the paper's
    "gfdm-cifar10-h0.9-k1": {**CIFAR10, **fvp(0.9, 1)},
    "gfdm-cifar10-h0.7-k2": {**CIFAR10, **fvp(0.7, 2)},
    "gfdm-cifar10-h0.9-k2": {**CIFAR10, **fvp(0.9, 2)},
    "vp-cifar10": {**CIFAR10, "dynamics": "vp"},
    "ve-cifar10": {**CIFAR10, "dynamics": "ve"},
}

FOR_DATA: dict[str, str] = {  # data set -> preset whose values it gets, whatever the network
    "digits": "digits",
    "mnist": "gfdm-mnist",
    "fashionmnist": "gfdm-mnist",
    "cifar10": "gfdm-cifar10",
    "cifar100": "gfdm-cifar10",
}

FOR_KIND: dict[str | None, str] = {  # what samples are -> preset, for sets of nobody's paper
    "function": "functions-small",
}

ABOUT: dict[str, About] = {
    "digits": About("first steps; the built-in digits, no download", 1_114_081, 1.1e9, 56),
    "mnist-small": About("MNIST on a CPU; the shipped mnist-demo", 1_018_225, 1.4e9, 1_320),
    "fashionmnist-small": About("Fashion-MNIST on a CPU", 1_018_225, 1.4e9, 1_380),
    "cifar10-small": About("colour images on a CPU, own ones too", 1_115_235, 1.7e9, 2_160),
    "functions-small": About("time series and other 1-D arrays on a CPU", 581_025, 1.1e9, 330),
    "gfdm-mnist": About("MNIST as published for GFDM", 20_996_417, 30e9, 3_542_400),
    "gfdm-cifar10": About("CIFAR-10 as published, the best of the paper", 58_692_867, 12e9, 27_216_000),
    "gfdm-cifar10-h0.9-k1": About("a row of the paper's table", 58_692_867, 12e9, 27_388_800),
    "gfdm-cifar10-h0.7-k2": About("a row of the paper's table", 58_692_867, 12e9, 27_216_000),
    "gfdm-cifar10-h0.9-k2": About("a row of the paper's table", 58_692_867, 12e9, 27_216_000),
    "vp-cifar10": About("the paper's baseline VP", 58_692_867, 12e9, 26_265_600),
    "ve-cifar10": About("the paper's baseline VE", 58_692_867, 12e9, 25_142_400),
}
