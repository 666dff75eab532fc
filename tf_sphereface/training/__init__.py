"""Recipes, training by them, and runs in a folder that can be stopped and resumed."""

from __future__ import annotations

from tf_sphereface.training.building import (
    build_annealing,
    build_backbone,
    build_classifier,
    embedder_of,
)
from tf_sphereface.training.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from tf_sphereface.training.distillation import distill
from tf_sphereface.training.fine_tuning import fine_tune
from tf_sphereface.training.fitting import train, train_recipe
from tf_sphereface.training.label_audit import LabelAudit, audit_labels
from tf_sphereface.training.presets import PRESETS, preset
from tf_sphereface.training.pretrained import Pretrained, open_pretrained
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.training.resumable import Run, run
from tf_sphereface.training.run_callbacks import RunStopped, deferred_stop
from tf_sphereface.training.run_folder import RunFolder
from tf_sphereface.training.solvers import build_solver
from tf_sphereface.training.teacher import Teacher, open_teacher
from tf_sphereface.training.teacher_embeddings import TeacherEmbeddings, teacher_embeddings
from tf_sphereface.training.weight_average import WeightAverage
from tf_sphereface.utils.xla_flags import tune_xla

__all__ = [
    "PRESETS",
    "Checkpoint",
    "LabelAudit",
    "Pretrained",
    "Recipe",
    "Run",
    "RunFolder",
    "RunStopped",
    "Teacher",
    "TeacherEmbeddings",
    "WeightAverage",
    "audit_labels",
    "build_annealing",
    "build_backbone",
    "build_classifier",
    "build_solver",
    "deferred_stop",
    "distill",
    "embedder_of",
    "fine_tune",
    "open_pretrained",
    "open_teacher",
    "preset",
    "read_checkpoint",
    "run",
    "save_checkpoint",
    "teacher_embeddings",
    "train",
    "train_recipe",
    "tune_xla",
]
