"""Score distillation: SDS and inline priors (IPSM) as a loss on a rendered pseudo view (METHOD section 7).

The render is encoded to latents z, noised to z_t with noise e, and shown to the plain model, which predicts e_plain,
and to the inpainting model, which knows the warped photo and predicts e_fill. With w = w(t),

    SDS  g = w (e_plain - e)
    G1   g = w (e_fill - e)
    G2   g = w (e_fill - e_plain)    as published; the paper's equation 12 has the opposite sign

A term is 0.5 weight mean(g^2) in value, and its gradient with respect to z is exactly weight g / size(z): the models
are not differentiated, only `encode` is. Images are (H, W, 3) in [0, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ipsm_jax.losses.schedule import GuidanceSchedule
from ipsm_jax.priors.diffusion import (
    DiffusionPrior,
    add_noise,
    guided_noise,
    guided_noise_inpaint,
    predicted_latents,
)

Term = Literal["sds", "g1", "g2"]
TERMS: tuple[Term, ...] = ("sds", "g1", "g2")
_PLAIN: tuple[Term, ...] = ("sds", "g2")
"""Terms that ask the plain model."""
_FILL: tuple[Term, ...] = ("g1", "g2")
"""Terms that ask the inpainting model."""


@dataclasses.dataclass(frozen=True)
class DistillationOptions:
    """Which terms, how strongly, and how; hashable, so that it can be a static argument.

    Attributes:
      terms: any of sds, g1, g2.
      sds_weight: of SDS, from the start on.
      g1_weight, g2_weight: of G1 and G2, times the ramp.
      g2_sign: "published" (e_fill - e_plain), or "paper" (e_plain - e_fill).
      guidance_scale: classifier-free guidance of the plain model.
      inpaint_guidance_scale: of the inpainting model.
      first_timestep, last_timestep: timesteps are uniform between them, both included.
      weighting: w(t) = a_t ("alpha", published), 1 - a_t ("noise"), or 1 ("constant"), a_t the cumulative alpha.
      encode: "per_term" gives each term its own sample of the posterior (published), and each model one input per
        term; "shared" encodes once.
      schedule: in which iterations.
    """

    terms: tuple[Term, ...] = ("g1", "g2")
    sds_weight: float = 2.0
    g1_weight: float = 0.2
    g2_weight: float = 2.0
    g2_sign: Literal["published", "paper"] = "published"
    guidance_scale: float = 7.5
    inpaint_guidance_scale: float = 7.5
    first_timestep: int = 250
    last_timestep: int = 749
    weighting: Literal["alpha", "noise", "constant"] = "alpha"
    encode: Literal["per_term", "shared"] = "per_term"
    schedule: GuidanceSchedule = dataclasses.field(default_factory=GuidanceSchedule)

    def __post_init__(self) -> None:
        known = len(set(self.terms)) == len(self.terms) > 0 and set(self.terms) <= set(TERMS)
        if not known:
            raise ValueError(
                f"terms of distillation are one or more of {', '.join(TERMS)}, each once; got {self.terms}"
            )
        if not 0 <= self.first_timestep <= self.last_timestep:
            raise ValueError(f"timesteps need 0 <= first <= last, got {self.first_timestep} and {self.last_timestep}")
        for name, choices in (
            ("g2_sign", ("published", "paper")),
            ("weighting", ("alpha", "noise", "constant")),
            ("encode", ("per_term", "shared")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}")

    @property
    def needs_warp(self) -> bool:
        """Whether any term asks the inpainting model, which needs the warped photo and its mask."""
        return any(term in _FILL for term in self.terms)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the terms, in their order, before any ramp."""
        return tuple(getattr(self, f"{term}_weight") for term in self.terms)

    def strength(self, term: Term, iteration: int | Int[Array, ""]) -> Float[Array, ""]:
        """Factor of a term's weight in an iteration, counted from 1: the ramp, 1 for SDS, 0 when not scheduled."""
        ramp = jnp.ones(()) if term == "sds" else self.schedule.ramped(iteration)
        return jnp.where(self.schedule.active(iteration), ramp, 0.0)


class DistillationPictures(NamedTuple):
    """What the models saw and thought, for people to look at; None where a model was not asked.

    Attributes:
      plain: (h, w, c) clean latents that the plain model's prediction stands for.
      filled: (h, w, c) the same of the inpainting model.
      masked_image: (s, s, 3) the warped photo as the inpainting model gets it, its hole gray.
      known: (s, s) where it is known.
    """

    plain: Float[Array, "h w c"] | None
    filled: Float[Array, "h w c"] | None
    masked_image: Float[Array, "s s 3"] | None
    known: Bool[Array, "s s"] | None


class DistillationInfo(NamedTuple):
    """Diagnostics of one iteration; k = the terms, in the order of the options.

    Attributes:
      losses: (k,) weighted value of each term.
      gradient_norms: (k,) norm of each term's gradient with respect to the latents, weight |g| / size(z).
      timestep: the one drawn.
      pictures: of the first encoding that each model was shown.
    """

    losses: Float[Array, " k"]
    gradient_norms: Float[Array, " k"]
    timestep: Int[Array, ""]
    pictures: DistillationPictures


def distillation_loss(
    key: Key[Array, ""],
    options: DistillationOptions,
    prior: DiffusionPrior,
    image: Float[Array, "h w 3"],
    warped: Float[Array, "h w 3"] | None,
    known: Bool[Array, "h w"] | None,
    iteration: int | Int[Array, ""],
    weights: Float[Array, " k"] | None = None,
) -> tuple[Float[Array, ""], DistillationInfo]:
    """The terms' sum for one pseudo view, and diagnostics.

    Args:
      key: for timestep, noise and posterior samples; another one in each iteration.
      options: static.
      prior: the two models.
      image: the rendered pseudo view, the only argument with a gradient.
      warped: a training photo warped into the view; None will do if no term needs it.
      known: where the warp is to be believed.
      iteration: counted from 1, may be traced.
      weights: of the terms, in their order, in place of those of the options; may be traced, so that one program can
        compare several.

    Raises:
      ValueError: a term needs the warp, and there is none, or timesteps that the prior does not have.
    """
    _check(options, prior, warped, known)
    timestep_key, noise_key, encode_key, fill_key = jax.random.split(key, 4)
    timestep = jax.random.randint(timestep_key, (), options.first_timestep, options.last_timestep + 1)
    noise = jax.random.normal(noise_key, prior.latent_shape)
    latents, rows = _encode(encode_key, options, prior, resize_image(image, prior.image_size))
    levels = jnp.full(latents.shape[0], timestep)
    noisy = add_noise(prior.alphas_cumprod, lax.stop_gradient(latents), jnp.broadcast_to(noise, latents.shape), levels)

    def ask(model: Callable[[Array, Array], Array], terms: tuple[Term, ...]) -> dict[int, Array]:
        """The model's prediction for each encoding that one of the terms needs it for, all in one batch."""
        asked = sorted({rows[term] for term in options.terms if term in terms})
        if not asked:
            return {}
        return dict(zip(asked, model(noisy[np.array(asked)], levels[np.array(asked)]), strict=True))

    by_plain = ask(lambda z, t: guided_noise(prior, z, t, options.guidance_scale), _PLAIN)
    by_fill, masked_image, known_resized = {}, None, None
    if warped is not None and known is not None and options.needs_warp:
        masked_image, known_resized = masked_input(warped, known, prior.image_size)
        hole = latent_hole(known_resized, prior.latent_shape)
        masked = lax.stop_gradient(prior.encode(prior.params, masked_image[None], fill_key))[0]

        def fill(z: Array, t: Array) -> Array:
            holes, known_latents = (jnp.broadcast_to(a, (z.shape[0], *a.shape)) for a in (hole, masked))
            return guided_noise_inpaint(prior, z, t, holes, known_latents, options.inpaint_guidance_scale)

        by_fill = ask(fill, _FILL)

    omega = _omega(options, prior.alphas_cumprod[timestep])
    losses, norms = [], []
    for k, term in enumerate(options.terms):
        base = options.weights[k] if weights is None else weights[k]
        weight, row = base * options.strength(term, iteration), rows[term]
        if term == "sds":
            direction = by_plain[row] - noise
        elif term == "g1":
            direction = by_fill[row] - noise
        else:
            direction = by_fill[row] - by_plain[row]
            direction = direction if options.g2_sign == "published" else -direction
        gradient = omega * direction
        gradient = lax.stop_gradient(jnp.where(jnp.isfinite(gradient), gradient, 0.0))
        # z - stopgrad(z - g), with its parts in the order that does not round g off.
        difference = gradient + (latents[row] - lax.stop_gradient(latents[row]))
        losses.append(weight * 0.5 * jnp.mean(jnp.square(difference)))
        norms.append(weight * jnp.linalg.norm(gradient.ravel()) / gradient.size)

    def clean(predictions: dict[int, Array]) -> Array | None:
        if not predictions:
            return None
        row = min(predictions)
        return predicted_latents(prior.alphas_cumprod, noisy[row][None], predictions[row][None], levels[:1])[0]

    pictures = DistillationPictures(clean(by_plain), clean(by_fill), masked_image, known_resized)
    info = DistillationInfo(jnp.stack(losses), jnp.stack(norms), timestep, pictures)
    return jnp.sum(info.losses), lax.stop_gradient(info)


def _encode(
    key: Key[Array, ""], options: DistillationOptions, prior: DiffusionPrior, picture: Float[Array, "s s 3"]
) -> tuple[Float[Array, "r h w c"], dict[Term, int]]:
    """Latents of the render, one row or one per term, and the row that each term uses."""
    if options.encode == "shared":
        return prior.encode(prior.params, picture[None], key), dict.fromkeys(options.terms, 0)
    # Separate calls with the same picture, so that the compiler can merge what does not depend on the key.
    keys = [jax.random.fold_in(key, TERMS.index(term)) for term in options.terms]
    latents = jnp.concatenate([prior.encode(prior.params, picture[None], k) for k in keys])
    return latents, {term: row for row, term in enumerate(options.terms)}


def no_distillation(options: DistillationOptions, prior: DiffusionPrior) -> tuple[Float[Array, ""], DistillationInfo]:
    """Zeros in the shapes of `distillation_loss`: the other branch of a `lax.cond`."""
    latents, size = jnp.zeros(prior.latent_shape), prior.image_size
    fills = options.needs_warp
    pictures = DistillationPictures(
        latents if any(term in _PLAIN for term in options.terms) else None,
        latents if fills else None,
        jnp.zeros((size, size, 3)) if fills else None,
        jnp.zeros((size, size), bool) if fills else None,
    )
    each = jnp.zeros(len(options.terms))
    return jnp.zeros(()), DistillationInfo(each, each, jnp.zeros((), jnp.int32), pictures)


def decoded(prior: DiffusionPrior, pictures: DistillationPictures) -> DistillationPictures:
    """The pictures with latents decoded to (s, s, 3) images in [0, 1]."""

    def decode(latents: Array | None) -> Array | None:
        return None if latents is None else prior.decode(prior.params, latents[None])[0]

    return pictures._replace(plain=decode(pictures.plain), filled=decode(pictures.filled))


def resize_image(image: Float[Array, "h w c"], size: int) -> Float[Array, "s s c"]:
    """Bilinear between pixel centers, without a low-pass filter: what torch's interpolate does by default."""
    return jax.image.resize(image, (size, size, image.shape[-1]), "linear", antialias=False)


def masked_input(
    warped: Float[Array, "h w 3"], known: Bool[Array, "h w"], size: int
) -> tuple[Float[Array, "s s 3"], Bool[Array, "s s"]]:
    """The warped photo and its mask at the models' size, without gradient; the hole is 0.5, which is 0 in [-1, 1]."""
    known = resize_image(known[..., None].astype(jnp.float32), size)[..., 0] > 0.5
    image = jnp.where(known[..., None], resize_image(warped, size), 0.5)
    return lax.stop_gradient(image), known


def latent_hole(known: Bool[Array, "s s"], latent_shape: tuple[int, int, int]) -> Float[Array, "h w 1"]:
    """1 where the latents are to be filled: nearest neighbor by the first pixel of each cell, as inpainting models
    are run.
    """
    height, width, _ = latent_shape
    rows = jnp.arange(height) * known.shape[0] // height
    columns = jnp.arange(width) * known.shape[1] // width
    return 1.0 - known[rows[:, None], columns[None, :], None].astype(jnp.float32)


def _check(options: DistillationOptions, prior: DiffusionPrior, warped: Array | None, known: Array | None) -> None:
    if options.needs_warp and (warped is None or known is None):
        raise ValueError(f"the terms {', '.join(options.terms)} need a warped photo and its mask, and there is none")
    steps = prior.alphas_cumprod.shape[0]
    if options.last_timestep >= steps:
        raise ValueError(f"last_timestep is {options.last_timestep}, but the prior has timesteps 0 to {steps - 1}")


def _omega(options: DistillationOptions, alpha: Float[Array, ""]) -> Float[Array, ""]:
    if options.weighting == "constant":
        return jnp.ones(())
    return alpha if options.weighting == "alpha" else 1 - alpha
