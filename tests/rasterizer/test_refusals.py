"""The XLA handlers called directly, past everything that `render` checks: each wrong operand or result is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax.rasterizer import native

N, K, C, WIDTH, HEIGHT, CAPACITY = 5, 15, 2, 20, 17, 64
TILES = 4
F32, I32 = jnp.float32, jnp.int32
ATTRIBUTES = {
    "width": WIDTH,
    "height": HEIGHT,
    "footprint": 0,
    "pair_capacity": CAPACITY,
    "antialiased": 0,
    "absolute_gradients": 0,
}

SCENE = {
    "means": ((N, 3), F32),
    "log_scales": ((N, 3), F32),
    "quaternions": ((N, 4), F32),
    "opacity_logits": ((N,), F32),
    "sh_dc": ((N, 3), F32),
    "sh_rest": ((N, K, 3), F32),
    "alive": ((N,), jnp.bool_),
    "mean2d_offset": ((N, 2), F32),
    "camera_from_world": ((4, 4), F32),
    "intrinsics": ((4,), F32),
    "background": ((3,), F32),
    "features": ((N, C), F32),
    "mean2d_absolute": ((N, 2), F32),
    "sh_degree": ((), I32),
}
IMAGES = {
    "color": ((HEIGHT, WIDTH, 3), F32),
    "depth": ((HEIGHT, WIDTH), F32),
    "alpha": ((HEIGHT, WIDTH), F32),
    "feature image": ((HEIGHT, WIDTH, C), F32),
}
LISTS = {
    "splats": ((N, 16), F32),
    "slot_start": ((N + 1,), I32),
    "tile_start": ((TILES + 1,), I32),
    "tile_processed": ((TILES,), I32),
    "pairs": ((CAPACITY, 2), I32),
}
NOT_DIFFERENTIABLE = ("alive", "sh_degree")
OPERANDS = {
    native.FORWARD: SCENE,
    native.BACKWARD: SCENE | IMAGES | LISTS | {f"gradient of {name}": image for name, image in IMAGES.items()},
    "ipsm_nearest_neighbors": {"points": ((N, 3), F32), "valid": ((N,), jnp.bool_), "wanted": ((N,), jnp.bool_)},
}
RESULTS = {
    native.FORWARD: IMAGES | {"radii": ((N,), I32), "pair_count": ((), I32)} | LISTS,
    native.BACKWARD: {f"d_{name}": s for name, s in SCENE.items() if name not in NOT_DIFFERENTIABLE},
    "ipsm_nearest_neighbors": {"mean_squared": ((N,), F32), "neighbors": ((N, 3), I32)},
}
TARGETS = list(OPERANDS)


def call(target, operands=None, results=None, **attributes):
    """The custom call on zeros; `operands` and `results` are the tables above, maybe with something wrong."""
    native.load_library()
    operands = OPERANDS[target] if operands is None else operands
    results = RESULTS[target] if results is None else results
    given = {} if target == "ipsm_nearest_neighbors" else {**ATTRIBUTES, **attributes}
    out = jax.ffi.ffi_call(target, [jax.ShapeDtypeStruct(*shape) for shape in results.values()])(
        *(jnp.zeros(*shape) for shape in operands.values()), **{k: np.int64(v) for k, v in given.items()}
    )
    return jax.block_until_ready(out)


def refused(match, *args, **kwargs):
    with pytest.raises(jax.errors.JaxRuntimeError, match=match):
        call(*args, **kwargs)


@pytest.mark.parametrize("target", TARGETS)
def test_what_fits_is_taken(target):
    out = call(target)
    assert [a.shape for a in out] == [shape for shape, _ in RESULTS[target].values()]


def wrong_shapes(shape):
    """Shapes that the operand must not have: another last axis, an axis more, an axis less."""
    larger = (*shape[:-1], shape[-1] + 1) if shape else (2,)
    yield from (larger, (1, *shape), shape[1:]) if shape else (larger,)


@pytest.mark.parametrize("target", TARGETS)
def test_each_operand_of_a_wrong_shape_is_named(target):
    for position, (name, (shape, dtype)) in enumerate(OPERANDS[target].items()):
        for wrong in wrong_shapes(shape):
            # The first operand tells how many batch axes there are; another one then is the odd one out.
            blamed = name if position or len(wrong) == len(shape) else r"\w+"
            if name == "features" and len(wrong) == len(shape):
                blamed = "feature image"  # its last axis is the number of channels, whatever it is
            refused(rf": {blamed} has shape", target, OPERANDS[target] | {name: (wrong, dtype)})


@pytest.mark.parametrize("target", TARGETS)
def test_each_result_of_a_wrong_shape_is_named(target):
    for name, (shape, dtype) in RESULTS[target].items():
        for wrong in wrong_shapes(shape):
            refused(f": {name} has shape", target, None, RESULTS[target] | {name: (wrong, dtype)})


@pytest.mark.parametrize("target", TARGETS)
def test_each_operand_and_result_of_a_wrong_type_is_named(target):
    for table, which in ((OPERANDS[target], 0), (RESULTS[target], 1)):
        for name, (shape, dtype) in table.items():
            other = I32 if dtype != I32 else F32
            tables = [None, None]
            tables[which] = table | {name: (shape, other)}
            refused(f": {name}: Wrong buffer dtype", target, *tables)


@pytest.mark.parametrize("target", TARGETS)
def test_missing_and_extra_operands_and_results(target):
    for table, which, what in ((OPERANDS[target], 0, "operands"), (RESULTS[target], 1, "results")):
        names, tables = list(table), [None, None]
        for count in range(1, len(names)):
            tables[which] = {name: table[name] for name in names[:count]}
            # Some sizes are read off operands further on, so that the first one missing need not be the one named.
            refused(rf": ({'|'.join(names[count:])}), number \d+, is missing: got only {count}\n", target, *tables)
        tables[which] = table | {"one more": ((3,), F32)}
        refused(f"got {len(names) + 1} {what}, want {len(names)}", target, *tables)


@pytest.mark.parametrize("target", TARGETS)
def test_batch_axes_that_do_not_fit(target):
    def batched(table, sizes):
        return {
            name: ((size, *shape), dtype) for (name, (shape, dtype)), size in zip(table.items(), sizes, strict=True)
        }

    operands, results = OPERANDS[target], RESULTS[target]
    call(target, batched(operands, [1, 3] + [1] * (len(operands) - 2)), batched(results, [3] * len(results)))
    second = list(operands)[1]
    refused(
        f": {second} has batch size 2 where another operand has 3",
        *(target, batched(operands, [3, 2] + [1] * (len(operands) - 2)), batched(results, [3] * len(results))),
    )
    last = list(results)[-1]
    refused(
        f": {last} has batch size 1 where the operands have 3",
        *(target, batched(operands, [3] * len(operands)), batched(results, [3] * (len(results) - 1) + [1])),
    )
    refused(
        f": {last} has batch size 4 where the operands have 1",
        *(target, batched(operands, [1] * len(operands)), batched(results, [1] * (len(results) - 1) + [4])),
    )


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("width", 0, "image size 0 x 17 is not between"),
        ("height", -1, "image size 20 x -1 is not between"),
        ("width", 2**40, "image size 1099511627776 x 17 is not between"),
        ("footprint", 2, "unknown footprint 2"),
        ("pair_capacity", -1, "negative pair_capacity -1"),
    ],
)
@pytest.mark.parametrize("target", TARGETS[:2])
def test_attributes_out_of_range(target, attribute, value, message):
    refused(f"ipsm_jax rasterizer: {message}", target, **{attribute: value})


@pytest.mark.parametrize("target", TARGETS[:2])
def test_attributes_have_to_be_there_and_of_their_type(target):
    operands = [jnp.zeros(*shape) for shape in OPERANDS[target].values()]
    results = [jax.ShapeDtypeStruct(*shape) for shape in RESULTS[target].values()]
    good = {name: np.int64(value) for name, value in ATTRIBUTES.items()}
    for name in ATTRIBUTES:
        for attributes in ({**good, name: np.float32(1)}, {k: v for k, v in good.items() if k != name}):
            with pytest.raises(
                jax.errors.JaxRuntimeError,
                match=r"Failed to decode all FFI handler operands|Wrong number of attributes",
            ):
                jax.block_until_ready(jax.ffi.ffi_call(target, results)(*operands, **attributes))
