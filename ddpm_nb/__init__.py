"""DDPM, derived and tested: the chapters of the book as one package.

Every public name of every chapter can be imported from here. Modules load on first use (PEP 562), so
``import ddpm_nb`` is quick and an extra is needed only by those who use what it is for.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Each public name, once. Type checkers and editors read this block; `_homes` reads it too.
if TYPE_CHECKING:
    from ddpm_nb._data import (
        load_folder as load_folder,
        save_image_grid as save_image_grid,
        to_float as to_float,
    )
    from ddpm_nb._inception import inception as inception
    from ddpm_nb._noise import CounterNoise as CounterNoise
    from ddpm_nb.algorithms import (
        Guided as Guided,
        Prediction as Prediction,
        Step as Step,
        TrainStep as TrainStep,
        ancestral as ancestral,
        drop_labels as drop_labels,
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
        discretized_log_prob as discretized_log_prob,
        frechet_distance as frechet_distance,
        inception_score as inception_score,
        interpolate as interpolate,
        progressive as progressive,
        rate_distortion as rate_distortion,
        shared_latents as shared_latents,
    )
    from ddpm_nb.fewer_steps import (
        analytic as analytic,
        ddim as ddim,
        ddim_encode as ddim_encode,
        ddim_mean as ddim_mean,
        ddim_sample as ddim_sample,
        ddim_sample_steps as ddim_sample_steps,
        ddim_sigma as ddim_sigma,
        log_snr_timesteps as log_snr_timesteps,
        multistep as multistep,
        respace as respace,
        strided as strided,
        timesteps as timesteps,
        x_0_error as x_0_error,
    )
    from ddpm_nb.forward import (
        Schedule as Schedule,
        per_image as per_image,
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
        x_0_to_noise as x_0_to_noise,
    )
    from ddpm_nb.network import (
        adam_step as adam_step,
        gradient_step as gradient_step,
        layer as layer,
        line_gradient as line_gradient,
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
        clip_gradients as clip_gradients,
        fit as fit,
        learning_rate as learning_rate,
        load_checkpoint as load_checkpoint,
        load_network as load_network,
        save_checkpoint as save_checkpoint,
        save_network as save_network,
    )
    from ddpm_nb.unet import (
        UNet as UNet,
        time_embedding as time_embedding,
    )
    from ddpm_nb.vae import (
        LinearGaussianVAE as LinearGaussianVAE,
        elbo as elbo,
    )


def _homes() -> dict[str, str]:
    """Return which module each public name of the block above comes from."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    imports = (
        node for block in tree.body if isinstance(block, ast.If) for node in block.body
    )
    return {
        alias.name: str(node.module).partition(".")[2]
        for node in imports
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


_HOME = _homes()
_CHAPTERS = {
    chapter: tuple(n for n, home in _HOME.items() if home == chapter)
    for chapter in _HOME.values()
}

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
