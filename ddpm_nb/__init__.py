"""DDPM, derived and tested: the chapters of the book as one package.

Every public name of every chapter can be imported from here. Modules load on first use (PEP 562), so
``import ddpm_nb`` is quick and an extra is needed only by those who use what it is for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Read by `__getattr__` below; the block under TYPE_CHECKING says the same to type checkers and editors,
# and a test compares the two.
_CHAPTERS: dict[str, tuple[str, ...]] = {
    "_noise": ("CounterNoise",),
    "likelihood": (
        "GaussianMixture",
        "gaussian_kl",
        "gaussian_kl_full",
        "gaussian_log_prob",
    ),
    "vae": ("LinearGaussianVAE", "elbo"),
    "forward": ("Schedule", "per_picture", "q_sample", "q_step"),
    "bound": ("ChainBound", "chain_bound"),
    "posterior": (
        "noised_mixture",
        "optimal_noise",
        "posterior_mean",
        "posterior_variance",
    ),
    "loss": (
        "denoising_mean",
        "noise_to_score",
        "noise_to_v",
        "optimal_variance",
        "predict_x_0",
        "reverse_variance",
        "simple_loss",
        "v_to_noise",
        "vlb_weight",
    ),
    "algorithms": (
        "Step",
        "TrainStep",
        "minibatches",
        "sample",
        "sample_steps",
        "train",
        "train_steps",
    ),
    "unet": ("UNet", "time_embedding"),
    "training": (
        "EMA",
        "TrainConfig",
        "Trainer",
        "Update",
        "as_floats",
        "clip_gradients",
        "fit",
        "learning_rate",
        "load_checkpoint",
        "load_folder",
        "load_network",
        "save_checkpoint",
        "save_network",
        "save_sheet",
    ),
    "fewer_steps": (
        "ddim_encode",
        "ddim_mean",
        "ddim_sample",
        "ddim_sample_steps",
        "ddim_sigma",
        "respace",
        "strided_sample",
        "strided_sample_steps",
        "timesteps",
    ),
    "evaluation": (
        "BitsPerDim",
        "RateDistortion",
        "bits_per_dim",
        "collect_features",
        "denoise",
        "denoise_steps",
        "discretized_log_prob",
        "frechet_distance",
        "inception",
        "inception_score",
        "interpolate",
        "progressive",
        "rate_distortion",
        "shared_latents",
    ),
    "cifar10": (
        "Labelled",
        "cifar10_config",
        "digits_config",
        "load_cifar10",
        "load_digits",
    ),
}
_HOME = {name: chapter for chapter, names in _CHAPTERS.items() for name in names}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import the chapter that defines `name`, on first use."""
    if name in _CHAPTERS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOME, *_CHAPTERS})


if TYPE_CHECKING:
    from ddpm_nb._noise import CounterNoise as CounterNoise
    from ddpm_nb.algorithms import (
        Step as Step,
        TrainStep as TrainStep,
        minibatches as minibatches,
        sample as sample,
        sample_steps as sample_steps,
        train as train,
        train_steps as train_steps,
    )
    from ddpm_nb.bound import (
        ChainBound as ChainBound,
        chain_bound as chain_bound,
    )
    from ddpm_nb.cifar10 import (
        Labelled as Labelled,
        cifar10_config as cifar10_config,
        digits_config as digits_config,
        load_cifar10 as load_cifar10,
        load_digits as load_digits,
    )
    from ddpm_nb.evaluation import (
        BitsPerDim as BitsPerDim,
        RateDistortion as RateDistortion,
        bits_per_dim as bits_per_dim,
        collect_features as collect_features,
        denoise as denoise,
        denoise_steps as denoise_steps,
        discretized_log_prob as discretized_log_prob,
        frechet_distance as frechet_distance,
        inception as inception,
        inception_score as inception_score,
        interpolate as interpolate,
        progressive as progressive,
        rate_distortion as rate_distortion,
        shared_latents as shared_latents,
    )
    from ddpm_nb.fewer_steps import (
        ddim_encode as ddim_encode,
        ddim_mean as ddim_mean,
        ddim_sample as ddim_sample,
        ddim_sample_steps as ddim_sample_steps,
        ddim_sigma as ddim_sigma,
        respace as respace,
        strided_sample as strided_sample,
        strided_sample_steps as strided_sample_steps,
        timesteps as timesteps,
    )
    from ddpm_nb.forward import (
        Schedule as Schedule,
        per_picture as per_picture,
        q_sample as q_sample,
        q_step as q_step,
    )
    from ddpm_nb.likelihood import (
        GaussianMixture as GaussianMixture,
        gaussian_kl as gaussian_kl,
        gaussian_kl_full as gaussian_kl_full,
        gaussian_log_prob as gaussian_log_prob,
    )
    from ddpm_nb.loss import (
        denoising_mean as denoising_mean,
        noise_to_score as noise_to_score,
        noise_to_v as noise_to_v,
        optimal_variance as optimal_variance,
        predict_x_0 as predict_x_0,
        reverse_variance as reverse_variance,
        simple_loss as simple_loss,
        v_to_noise as v_to_noise,
        vlb_weight as vlb_weight,
    )
    from ddpm_nb.posterior import (
        noised_mixture as noised_mixture,
        optimal_noise as optimal_noise,
        posterior_mean as posterior_mean,
        posterior_variance as posterior_variance,
    )
    from ddpm_nb.training import (
        EMA as EMA,
        TrainConfig as TrainConfig,
        Trainer as Trainer,
        Update as Update,
        as_floats as as_floats,
        clip_gradients as clip_gradients,
        fit as fit,
        learning_rate as learning_rate,
        load_checkpoint as load_checkpoint,
        load_folder as load_folder,
        load_network as load_network,
        save_checkpoint as save_checkpoint,
        save_network as save_network,
        save_sheet as save_sheet,
    )
    from ddpm_nb.unet import (
        UNet as UNet,
        time_embedding as time_embedding,
    )
    from ddpm_nb.vae import (
        LinearGaussianVAE as LinearGaussianVAE,
        elbo as elbo,
    )
