"""Pseudo views: random cameras near the training cameras, where nobody took a photo (METHOD section 5).

Everything that needs the training cameras as a whole is worked out once, on the host in float64, and becomes a
`PseudoViewSampler`, a small pytree. Drawing from it is a pure function that runs inside a jitted loop:

    unit = the sampler's length in world units, s = 0.05 max(0.2, u),
    position = training position + unit * N(0, s^2) per axis, clipped to a box,
    target = the sampler's point to look at + unit * N(0, s^2) per axis.

The kinds differ in unit, box, target and up:

    llff    unit 0.75 x nearest bound; box [-1, 1] units in the axes of the average pose; all look at the point ahead
            of the average pose at the focus depth; mean up
    dtu     unit so that the training positions, in their principal axes, just fit [-1, 1], which is the box; all look
            at the point nearest to all optical axes; mean up
    around  for any capture: each looks at a point on the optical axis of its own training camera, with its up; no box
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.trajectories import average_pose, choose_path, focus_depth, focus_point

PseudoViewKind = Literal["llff", "dtu", "around"]

NOISE = 0.05
LEAST_SHARE = 0.2
LIST_LENGTH = 10_000
"""How many pseudo views the published configuration lists, and then draws in random order."""


class PseudoViewSampler(NamedTuple):
    """Where pseudo views are drawn; V training views, lengths in world units unless said otherwise.

    Attributes:
      centers: (V, 3) training positions.
      targets: (V, 3) point that a pseudo view drawn from each training view looks at.
      ups: (V, 3) its up direction, of any length.
      aligned: (V, 3) training positions in the aligned frame, in units.
      world_from_aligned: (3, 3) rotation.
      unit: () world length of one unit.
      box: () positions stay within [-box, box] in the aligned frame, in units; inf for no box.
      noise: () standard deviation of the noise for u = 1, in units.
      shares: (n,) u of the listed views, k / n in random order; n = 0 for no list, with u uniform in (0, 1).
    """

    centers: Float[Array, "v 3"]
    targets: Float[Array, "v 3"]
    ups: Float[Array, "v 3"]
    aligned: Float[Array, "v 3"]
    world_from_aligned: Float[Array, "3 3"]
    unit: Float[Array, ""]
    box: Float[Array, ""]
    noise: Float[Array, ""]
    shares: Float[Array, " n"]


class PseudoView(NamedTuple):
    """A drawn view.

    Attributes:
      camera_from_world: (4, 4) rigid transform.
      reference: index of the training view that it was drawn from, among the training views.
    """

    camera_from_world: Float[Array, "4 4"]
    reference: Int[Array, ""]


def sample_pseudo_view(key: Key[Array, ""], sampler: PseudoViewSampler, draw: int | Int[Array, ""]) -> PseudoView:
    """Pseudo view number `draw` (from 0, may be traced) of a run.

    With a list, n draws in a row give each of its entries once, from a random one on; the next n give the same views,
    from another one on. Without, u is drawn.

    Args:
      key: one per run; the same for all draws.
      sampler: from `pseudo_view_sampler`.
      draw: how many were drawn before.
    """
    draw = jnp.asarray(draw, jnp.int32)
    if length := sampler.shares.shape[0]:
        start_key, entry_key = jax.random.split(key)
        entry = (draw + jax.random.randint(jax.random.fold_in(start_key, draw // length), (), 0, length)) % length
        share, key = sampler.shares[entry], jax.random.fold_in(entry_key, entry)
    else:
        share_key, key = jax.random.split(jax.random.fold_in(key, draw))
        share = jax.random.uniform(share_key)
    view_key, noise_key = jax.random.split(key)
    reference = jax.random.randint(view_key, (), 0, sampler.centers.shape[0])
    deviation = sampler.noise * jnp.maximum(LEAST_SHARE, share)
    at_position, at_target = deviation * jax.random.normal(noise_key, (2, 3))
    start = sampler.aligned[reference]
    # The difference is added to the world position, so that without noise the training position comes out exactly.
    step = jnp.clip(start + at_position, -sampler.box, sampler.box) - start
    offsets = sampler.unit * jnp.einsum(
        "ij,nj->ni", sampler.world_from_aligned, jnp.stack([step, at_target]), precision="highest"
    )
    position, target = sampler.centers[reference] + offsets[0], sampler.targets[reference] + offsets[1]
    return PseudoView(_look_at(position, target, sampler.ups[reference]), reference)


def _look_at(position: Float[Array, " 3"], target: Float[Array, " 3"], up: Float[Array, " 3"]) -> Float[Array, "4 4"]:
    """``camera_from_world`` at `position` looking at `target`; NaN where these are one point or up is parallel."""
    forward = (target - position) / jnp.linalg.norm(target - position)
    right = jnp.cross(forward, up)
    right = right / jnp.linalg.norm(right)
    rotation = jnp.stack([right, jnp.cross(forward, right), forward])
    translation = -jnp.einsum("ij,j->i", rotation, position, precision="highest")
    return jnp.concatenate([jnp.column_stack([rotation, translation]), jnp.array([[0.0, 0.0, 0.0, 1.0]])])


def choose_pseudo_views(cameras: Camera, bounds: Float[np.ndarray, "v 2"] | None) -> PseudoViewKind:
    """``llff`` for training cameras that face one way and have depth bounds, ``around`` otherwise."""
    return "llff" if bounds is not None and choose_path(cameras) == "spiral" else "around"


def pseudo_view_sampler(
    cameras: Camera,
    bounds: Float[np.ndarray, "v 2"] | None,
    kind: PseudoViewKind,
    *,
    list_length: int = LIST_LENGTH,
) -> PseudoViewSampler:
    """What pseudo views of these training cameras are drawn from.

    Args:
      cameras: batch of V >= 1 training cameras.
      bounds: (V, 2) their nearest and farthest depths in world units; needed by ``llff``; None if not known.
      kind: see above.
      list_length: 10 000 is the published list; 0 = uniform u.

    Raises:
      ValueError: for what a kind needs and the cameras do not give; says which kind to use instead.
    """
    if list_length < 0:
        raise ValueError(f"a list of pseudo views cannot have {list_length} entries; 0 means no list")
    matrices = np.asarray(cameras.camera_from_world, np.float64)
    centers = -np.einsum("vji,vj->vi", matrices[:, :3, :3], matrices[:, :3, 3])
    build = {"llff": _llff, "dtu": _dtu, "around": _around}
    if kind not in build:
        raise ValueError(f"unknown kind of pseudo views {kind!r}; there are {', '.join(build)}")
    frame = build[kind](cameras, matrices, centers, bounds)

    def constant(value: np.ndarray | float, shape: tuple[int, ...]) -> Array:
        return jnp.asarray(np.broadcast_to(np.asarray(value, np.float32), shape))

    aligned = (centers - frame.origin) @ frame.rotation / frame.unit
    return PseudoViewSampler(
        centers=constant(centers, centers.shape),
        targets=constant(frame.targets, centers.shape),
        ups=constant(frame.ups, centers.shape),
        aligned=constant(aligned, centers.shape),
        world_from_aligned=constant(frame.rotation, (3, 3)),
        unit=constant(frame.unit, ()),
        # Clipping is for what the noise does: a training camera that is farther out widens the box.
        box=constant(max(frame.box, np.abs(aligned).max()), ()),
        noise=constant(NOISE, ()),
        shares=constant(np.random.default_rng(0).permutation(list_length) / max(list_length, 1), (list_length,)),
    )


class _Frame(NamedTuple):
    """The aligned frame of a kind: world_from_aligned rotation and origin, unit, box, targets and ups in the world."""

    rotation: np.ndarray
    origin: np.ndarray
    unit: float
    box: float
    targets: np.ndarray
    ups: np.ndarray


def _llff(cameras: Camera, matrices: np.ndarray, centers: np.ndarray, bounds: np.ndarray | None) -> _Frame:
    if bounds is None:
        raise ValueError(
            "pseudo views of kind 'llff' need the depth bounds of the views, and there are none: use 'around'"
        )
    depth = focus_depth(bounds)
    pose = average_pose(cameras)
    target = pose[:3, 3] + depth * pose[:3, 2]
    return _Frame(pose[:3, :3], pose[:3, 3], 0.75 * float(np.min(bounds)), 1.0, target, -matrices[:, 1, :3].mean(0))


def _dtu(cameras: Camera, matrices: np.ndarray, centers: np.ndarray, bounds: np.ndarray | None) -> _Frame:
    target = focus_point(cameras)
    if target is None:
        raise ValueError(
            "pseudo views of kind 'dtu' look at the point nearest to all optical axes, but these are parallel: "
            "use 'llff' or 'around'"
        )
    origin = centers.mean(0)
    # Right singular vectors by falling spread; a third one exists for two cameras too.
    rotation = np.linalg.svd(centers - origin, full_matrices=True)[2].T
    unit = float(np.abs((centers - origin) @ rotation).max())
    if not unit > 0:
        raise ValueError("pseudo views of kind 'dtu' need training cameras at different places: use 'around'")
    return _Frame(rotation, origin, unit, 1.0, target, -matrices[:, 1, :3].mean(0))


def _around(cameras: Camera, matrices: np.ndarray, centers: np.ndarray, bounds: np.ndarray | None) -> _Frame:
    """Targets at the depth of the point that all look at, if there is one, else at the focus depth of the bounds.

    The unit is 0.75 x the nearest bound, else half the mean distance to that point.
    """
    origin = centers.mean(0)
    spread = float(np.linalg.norm(centers - origin, axis=1).max())
    forward = matrices[:, 2, :3]
    shared = focus_point(cameras)
    depths = np.full(len(centers), -1.0) if shared is None else np.einsum("vi,vi->v", shared - centers, forward)
    if not (depths > 0.5 * spread).all():  # looking outwards, or past one another
        if bounds is None:
            raise ValueError(
                "the depth bounds of the views are not known and the cameras do not look at one point, so there is no "
                "length to draw pseudo views with: give depth bounds (a COLMAP model with points, or poses_bounds.npy)"
            )
        depths = np.array([focus_depth(row) for row in np.asarray(bounds, np.float64)])
    unit = 0.5 * float(depths.mean()) if bounds is None else 0.75 * float(np.min(bounds))
    targets = centers + depths[:, None] * forward
    return _Frame(np.eye(3), origin, unit, np.inf, targets, -matrices[:, 1, :3])
