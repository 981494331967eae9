"""Presets of the functional family: flag values by name. An explicit flag beats a preset, a preset beats a default.

The first five have the published values (configurations of arXiv 2303.00800's code), with the prior that its samplers
should have started from; the others are for two CPU cores.
"""

from common.config.length import of_length
from common.config.presets import About

Preset = dict[str, object]

HEAT: Preset = {
    "dynamics": "heat",
    "prior": "data",
    "conditioning": False,
    "t_min": 1e-3,
    "lr_schedule": "warmup_cosine",
    "clip_by": "value",
    "use_ema": True,
    "val_check_interval": 5000,
    "log_model_every_n": 50000,
}

AVERAGE: Preset = {"ema_decay": (0.9999,), "ema_every": 1}

INR: Preset = {
    **HEAT,
    **AVERAGE,
    "model_name": "inr",
    "inner_steps": 3,
    "optimizer": "adabelief",
    "lr": 3.3e-5,
    "lr_end": 1e-5,
    "time_warmup": 10000,
    "loss_reduction": "sum",
}

SMALL_INR: Preset = {**INR, "width": 128, "depth": 8}  # 118,916 parameters with one channel and three inputs

UVIT: Preset = {
    **HEAT,
    **AVERAGE,
    "model_name": "uvit",
    "optimizer": "adamw",
    "weight_decay": 0.03,
    "embed_dim": 512,
    "num_heads": 8,
}

CELEBA: Preset = {"data_name": "celeba", "image_size": 64, "flip": True}

SPOKEN_DIGITS: Preset = {"data_name": "spokendigits", "beta_max": 10.0, "train_steps": 1000000, "batch_size": 4}

SMALL: Preset = {
    **HEAT,
    "prediction": "x0",
    "lr_schedule": "onecycle",
    "warmup_steps": 0,
    "decay_steps": 0,
    "lr_end": 0.0,
    "time_warmup": 0,
    "clip_grad": 1.0,
    "clip_by": "norm",
    "loss_reduction": "mean",
    "weight_decay": 0.03,
    "optimizer": "adamw",
}

DIGITS: Preset = {
    **SMALL,
    "data_name": "digits",
    "conditioning": True,
    "energy_norm": 8.0,
    # EDM's scalings give every mode about unit variance: digits, whose spectrum is flat, are learned faster than with
    # the published prediction of x0, which is the better one for photographs
    "prediction": "edm",
    "batch_size": 64,
    "lr": 2e-3,
    **of_length(1000),
    "val_check_interval": 500,
    "log_model_every_n": 1000,
    "checkpoint_every": 250,
}

PRESETS: dict[str, Preset] = {
    "fdp-mnist-inr": {
        **SMALL_INR,
        "data_name": "mnist",
        "image_size": 32,
        "energy_norm": 1.0,
        "beta_max": 5.0,
        "y_input": False,
        "inner_lr": 1e-2,
        "warmup_steps": 6000,
        "decay_steps": 30000,
        "batch_size": 64,
        "train_steps": 500000,
    },
    "fdp-celeba-inr": {  # 945,173 parameters and as many rates
        **INR,
        **CELEBA,
        "energy_norm": 1.0,
        "beta_max": 5.0,
        "width": 256,
        "depth": 15,
        "learned_rates": True,  # from 5e-4 on; from the published U(0.005, 0.1) the inner loop diverges
        "warmup_steps": 3000,
        "decay_steps": 10000,
        "batch_size": 16,
        "train_steps": 500000,
    },
    "fdp-celeba-uvit": {  # 25.7 M parameters
        **UVIT,
        **CELEBA,
        "energy_norm": 64.0,
        "beta_max": 10.0,
        "patch_size": 1,
        "depth": 7,
        "clip_grad": 0.0,
        "lr": 3.3e-4,
        "lr_end": 2e-4,
        "warmup_steps": 5000,
        "decay_steps": 10000,
        "loss_reduction": "sum",
        "batch_size": 8,
        "train_steps": 500000,
    },
    "fdp-audio-uvit": {  # 48.3 M parameters
        **UVIT,
        **SPOKEN_DIGITS,
        "energy_norm": 1.0,
        "patch_size": 2,
        "depth": 13,
        "position": "learned",
        "lr": 3.3e-5,
        "lr_end": 1e-5,
        "warmup_steps": 3000,
        "decay_steps": 30000,
    },
    "fdp-audio-inr": {  # 118,916 parameters
        **SMALL_INR,
        **SPOKEN_DIGITS,
        "x_norm": 64.0,  # 64 per point as published: like no other preset's, not the length of the data
        "energy_norm": 256.0,
        "inner_lr": 1e-3,
        "warmup_steps": 5000,
        "decay_steps": 10000,
    },
    "fdp-digits-uvit": {  # 0.7 M parameters
        **DIGITS,
        "model_name": "uvit",
        "patch_size": 2,
        "embed_dim": 96,
        "depth": 5,
        "num_heads": 4,
    },
    "fdp-digits-inr": {  # 16,197 parameters and as many rates
        **DIGITS,
        "model_name": "inr",
        "width": 64,
        "depth": 4,
        "learned_rates": True,
        "inner_lr": 1e-2,
        "prediction": "x0",  # to adapt to the noisy data is a step towards the data, not towards EDM's target
        "lr": 5e-4,  # at 1e-3 the learned rates grow until the inner loop diverges
        **of_length(800),
        "val_check_interval": 400,
        "log_model_every_n": 800,
        "checkpoint_every": 200,
    },
    "fdp-celeba-small": {  # 3.6 M parameters
        **SMALL,
        "data_name": "celeba",
        "image_size": 32,
        "flip": True,
        "energy_norm": 1.0,
        "model_name": "uvit",
        "patch_size": 4,
        "embed_dim": 192,
        "depth": 7,
        "num_heads": 6,
        "batch_size": 32,
        "lr": 1e-3,
        **of_length(6000),
        "val_check_interval": 1000,
        "log_model_every_n": 2000,
        "checkpoint_every": 500,
    },
    "fdp-audio-small": {  # 3.7 M parameters
        **SMALL,
        "data_name": "spokendigits",
        "conditioning": True,
        "energy_norm": 1.0,
        "model_name": "uvit",
        "patch_size": 50,
        "embed_dim": 192,
        "depth": 7,
        "num_heads": 6,
        "position": "learned",
        "batch_size": 32,
        "lr": 1e-3,
        **of_length(4000),
        "val_check_interval": 1000,
        "log_model_every_n": 2000,
        "checkpoint_every": 500,
    },
}

FOR_CHOICE: dict[tuple[str, str, str], str] = {  # process, data set and network -> preset whose values they get
    ("heat", "digits", "uvit"): "fdp-digits-uvit",
    ("heat", "digits", "inr"): "fdp-digits-inr",
    ("heat", "mnist", "inr"): "fdp-mnist-inr",
    ("heat", "celeba", "uvit"): "fdp-celeba-uvit",
    ("heat", "celeba", "inr"): "fdp-celeba-inr",
    ("heat", "spokendigits", "uvit"): "fdp-audio-uvit",
    ("heat", "spokendigits", "inr"): "fdp-audio-inr",
}

FOR_KIND: dict[str | None, str] = {  # what samples are -> preset, for sets of nobody's paper
    "sound": "fdp-audio-small",
}

ABOUT: dict[str, About] = {
    "fdp-mnist-inr": About("MNIST as published for FDP: INR, meta-learning", 118_916, 7.2e9, 4_233_600),
    "fdp-celeba-inr": About("CelebA as published: INR, meta-learning", 1_890_346, 24e9, 15_552_000),
    "fdp-celeba-uvit": About("CelebA as published: UViT", 25_734_743, 9.2e9, 33_264_000),
    "fdp-audio-uvit": About("spoken digits as published: UViT", 48_261_638, 9e9, 59_959_440),
    "fdp-audio-inr": About("spoken digits as published: INR", 118_916, 4.3e9, 2_937_600),
    "fdp-digits-uvit": About("first steps with FDP; the built-in digits", 671_054, 1.1e9, 42),
    "fdp-digits-inr": About("first steps with an INR that adapts", 32_394, 1.2e9, 74),
    "fdp-celeba-small": About("faces on a CPU", 3_646_788, 1.3e9, 1_740),
    "fdp-audio-small": About("sounds on a CPU, own ones too", 3_680_310, 1.7e9, 3_120),
}
