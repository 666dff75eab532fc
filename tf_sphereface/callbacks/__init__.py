"""Keras callbacks: margins and waits in the logs, verification after each epoch, diagnoses."""

from __future__ import annotations

from tf_sphereface.callbacks.angular_logs import AngularLogs
from tf_sphereface.callbacks.data_wait import DataWait
from tf_sphereface.callbacks.held_out_pairs import verify_embeddings, verify_on
from tf_sphereface.callbacks.training_doctor import Finding, TrainingDoctor
from tf_sphereface.callbacks.verification import Verification

__all__ = [
    "AngularLogs",
    "DataWait",
    "Finding",
    "TrainingDoctor",
    "Verification",
    "verify_embeddings",
    "verify_on",
]
