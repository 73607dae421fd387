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
    "likelihood": ("GaussianMixture", "gaussian_kl", "gaussian_log_prob"),
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
    from ddpm_nb.forward import (
        Schedule as Schedule,
        per_picture as per_picture,
        q_sample as q_sample,
        q_step as q_step,
    )
    from ddpm_nb.likelihood import (
        GaussianMixture as GaussianMixture,
        gaussian_kl as gaussian_kl,
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
    from ddpm_nb.unet import (
        UNet as UNet,
        time_embedding as time_embedding,
    )
    from ddpm_nb.vae import (
        LinearGaussianVAE as LinearGaussianVAE,
        elbo as elbo,
    )
