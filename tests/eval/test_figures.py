"""The report's pictures have the marks by which they are read."""

from __future__ import annotations

import re

from tf_sphereface.eval.report import figures


def test_the_det_picture_has_ticks_in_percent_on_both_axes():
    points = [
        {"far": far, "tar": tar}
        for far, tar in ((0.0, 0.2), (0.001, 0.6), (0.01, 0.9), (0.1, 0.98), (1.0, 1.0))
    ]
    picture = figures.det(points, genuine=1000, impostors=10_000)
    labels = re.findall(r">([\d.]+ %)<", picture)
    rejects = ["0.1 %", "1 %", "5 %", "20 %", "50 %"]  # from half an error of 1,000 on
    assert labels == ["0.01 %", *rejects, *rejects]
