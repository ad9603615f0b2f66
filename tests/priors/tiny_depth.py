"""Write depth networks with random weights: tiny ones of the real structure, or of the published size.

Needs neither torch nor transformers; names and shapes are compared with theirs in test_depth_parity.py.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tiny_checkpoint import random_weights

from ipsm_jax.priors.monodepth import depth_anything, dpt_hybrid
from ipsm_jax.priors.monodepth.load import STEM

HYBRID = {
    "architectures": ["DPTForDepthEstimation"],
    "backbone_config": {
        "depths": [2, 1, 1],
        "embedding_dynamic_padding": True,
        "embedding_size": 8,
        "global_padding": "SAME",
        "hidden_sizes": [32, 64, 96, 128],
        "layer_type": "bottleneck",
        "model_type": "bit",
        "num_groups": 4,
        "out_features": ["stage1", "stage2", "stage3"],
    },
    "backbone_featmap_shape": [1, 96, 4, 4],
    "backbone_out_indices": [0, 0, 0, 2],
    "fusion_hidden_size": 16,
    "hidden_size": 24,
    "image_size": 64,
    "intermediate_size": 40,
    "is_hybrid": True,
    "model_type": "dpt",
    "neck_hidden_sizes": [32, 64, 20, 28],
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "reassemble_factors": [1, 1, 1, 0.5],
}
HYBRID_PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "ensure_multiple_of": 1,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "DPTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "keep_aspect_ratio": False,
    "size": {"height": 384, "width": 384},
}
ANYTHING = {
    "architectures": ["DepthAnythingForDepthEstimation"],
    "backbone_config": {
        "hidden_size": 24,
        "image_size": 56,
        "mlp_ratio": 2,
        "model_type": "dinov2",
        "num_attention_heads": 3,
        "num_hidden_layers": 5,
        "out_features": ["stage1", "stage3", "stage4", "stage5"],
        "out_indices": [1, 3, 4, 5],
        "reshape_hidden_states": False,
    },
    "fusion_hidden_size": 16,
    "head_hidden_size": 12,
    "model_type": "depth_anything",
    "neck_hidden_sizes": [8, 12, 20, 28],
    "patch_size": 14,
    "reassemble_factors": [4, 2, 1, 0.5],
    "reassemble_hidden_size": 24,
}
ANYTHING_PREPROCESSOR = {
    "do_normalize": True,
    "do_pad": False,
    "do_rescale": True,
    "do_resize": True,
    "ensure_multiple_of": 14,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "DPTImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "keep_aspect_ratio": True,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 70, "width": 70},
    "size_divisor": None,
}
TINY = {"hybrid": (HYBRID, HYBRID_PREPROCESSOR), "anything": (ANYTHING, ANYTHING_PREPROCESSOR)}
# The published files, without what is the default of transformers' classes.
REAL_HYBRID = {
    "backbone_config": {
        "depths": [3, 4, 9],
        "embedding_dynamic_padding": True,
        "global_padding": "SAME",
        "layer_type": "bottleneck",
        "model_type": "bit",
        "out_features": ["stage1", "stage2", "stage3"],
    },
    "is_hybrid": True,
    "model_type": "dpt",
    "neck_hidden_sizes": [256, 512, 768, 768],
    "reassemble_factors": [1, 1, 1, 0.5],
}
REAL_ANYTHING = {
    "backbone_config": {
        "hidden_size": 384,
        "image_size": 518,
        "model_type": "dinov2",
        "num_attention_heads": 6,
        "out_features": ["stage3", "stage6", "stage9", "stage12"],
        "out_indices": [3, 6, 9, 12],
        "reshape_hidden_states": False,
    },
    "model_type": "depth_anything",
}


def shapes_of(config):
    """Name and shape of every array that the network asks for."""
    if config["model_type"] == "dpt":
        return dpt_hybrid.dpt_hybrid_shapes(dpt_hybrid.DPTHybridConfig.from_json(config))
    return depth_anything.depth_anything_shapes(depth_anything.DepthAnythingConfig.from_json(config))


def unused_shapes(config):
    """The arrays that the files hold besides, kernels HWIO."""
    fusion = config.get("fusion_hidden_size", 256 if config["model_type"] == "dpt" else 64)
    found = {}
    for name in (dpt_hybrid if config["model_type"] == "dpt" else depth_anything).IGNORED:
        if "convolution" in name:
            found[name] = (3, 3, fusion, fusion) if name.endswith("weight") else (fusion,)
        elif "mask_token" in name:
            found[name] = (1, config["backbone_config"]["hidden_size"])
        else:
            found[name] = (config.get("hidden_size", 768),)
    return found


def depth_weights(config, seed=0):
    """Random arrays, in the file's layout, whose maps are mostly positive."""
    weights = random_weights({**shapes_of(config), **unused_shapes(config)}, seed)
    for name, values in weights.items():
        if "position_embeddings" in name or "token" in name:
            values *= np.sqrt(values.shape[1]) / 2
        if "lambda1" in name:
            values += 0.5
    last = "head.head.4" if config["model_type"] == "dpt" else "head.conv3"
    weights[f"{last}.bias"] += 2.0
    return weights


def write_depth_network(folder, config, preprocessor=None, seed=0):
    """One folder: config.json, preprocessor_config.json where given, and the weights."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    save_file(depth_weights(config, seed), folder / f"{STEM}.safetensors", metadata={"format": "pt"})
    return folder
