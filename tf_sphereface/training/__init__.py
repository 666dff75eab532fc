"""Recipes, and training by them."""

from __future__ import annotations

from tf_sphereface.training.building import (
    build_annealing,
    build_backbone,
    build_classifier,
    embedder_of,
)
from tf_sphereface.training.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from tf_sphereface.training.fitting import train, train_recipe
from tf_sphereface.training.recipes import PRESETS, Recipe, preset

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Recipe",
    "build_annealing",
    "build_backbone",
    "build_classifier",
    "embedder_of",
    "preset",
    "read_checkpoint",
    "save_checkpoint",
    "train",
    "train_recipe",
]
