"""The page's fixed text. Numbers are filled in from what was measured."""

from __future__ import annotations

INTRODUCTION = """\
# The paper, reproduced

Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR 2017
(arXiv:1704.08063), says that a margin on the *angle* makes features of one person narrow and those
of different people far apart. `tf_sphereface-reproduce` runs its experiments again on two CPU cores
and writes this page. *Published* figures have their source; all else is *measured here*, by

```bash
{command}
```

The same command goes on where it was stopped. The published networks were trained on 0.49 million
faces, those here on some ten thousand: compare rows, not absolute accuracies.
"""

EMBEDDINGS = """\
## 1. What the margin does to features

Small networks whose embedding has two or three dimensions, {steps} updates, {classes} classes each
of: {data}. Drawn are the held-out pictures: in the plane (top; lines: class centres), on the circle
or the sphere, and as angles between all pairs. Lambda falls from {base:g} to {minimum:g}, so the
margin is felt nearly in full. The table has the angular Fisher score on the pictures that were
trained on / held out.
"""

BOUNDS = """\
## 2. The lower bounds of m

When is every angle within a class smaller than every angle between two classes? With unit centres
at the angle `t12`, class 1's region is where `m t1 < t2` (`t1`, `t2`: angles to the centres).

**Two classes**, on the great circle through both centres: the region ends at `t12 / (m + 1)`
between them and at `t12 / (m - 1)` on the far side. It is `2 m t12 / (m^2 - 1)` wide, the gap is
`(m - 1) / (m + 1) t12`, and width <= gap means **m >= 2 + sqrt(3) = 3.732**. Centres further apart
than `(m - 1) / m pi` have the bound `1 + 2 pi / t12`.

**Many classes** at equal angles `t` *on a circle*: width `2 t / (m + 1)`, gap
`(m - 1) / (m + 1) t`, so **m >= 3**.

The experiment builds the regions for real-valued m and bisects the m at which the widest region
equals the narrowest gap.
"""

BOUNDS_EQUAL = """\
In {equal} of {derived} arrangements with a derived bound (two centres 30° to 180° apart, and 3 to
10 evenly on a circle) the crossing equals it within {within:g}. The others:
"""

BOUNDS_AFTER = """\
On a sphere regions have corners, and the crossing lies *above* 3 ({low:.3f} to {high:.3f} here):
m = 4 has the property, m = 3 misses it. All of it takes class centres as given. At lambda = 5 the
margin that is felt at m = 4 is that of m = 1.37, below every bound.
"""

BOUNDARIES = """\
## 3. Decision boundaries

Two classes in the plane; what is not coloured belongs to neither. Weights' lengths and biases move
softmax's boundary; unit centres turn it into the bisector; the margin splits it in two,
`(m - 1) / (m + 1)` of the angle apart.
"""

MARGIN = """\
## 4. The ablation on m

{train}; verified on {test}. {recipe} Mean over {seeds} seeds; ± is the standard error over the
folds (of the mean over seeds), *spread* the standard deviation over seeds.
"""

MARGIN_FELT = """\
*Margin felt* is `angular.effective_margin` at the end of the run: lambda's minimum leaves little of
m, which is why neighbouring rows are hard to tell apart, while m = 4 and softmax are not.
"""

PAIRED = """\
The same pairs, paired: difference in points ± its standard error over the folds, and p: the pairs'
signs flipped at random. *Over seeds* is the standard error over the seeds. What other machines make
of the same seeds: [real faces](real-faces.md#the-ablation-three-times).
"""

LAMBDA = """\
## 5. Lambda's minimum, and the released layer's gradient

All with m = 4 and one seed, paired with the row of minimum 5 (exact gradient), the released value.
Each minimum is reached after the same share of the run; 0 is scaled to reach 0.05.
"""

LOSSES = """\
## 7. Every loss of the library

{seeds}, the same recipe; margins and scales are the command's defaults
([choose a loss](../start/choose-a-loss.md)). Paired with softmax on the same pairs. *Length of x*
is the median length of an embedding: gradients of losses with a scale shrink with it. *Accuracy in
training* tells how far each has come in these few epochs: those with a scale have learnt less, and
a longer run may rank them otherwise.
"""

RECIPE_AFTER = """\
These are runs of the preset `short`; `long` is the best recipe known here for a small set
([real faces](real-faces.md)).
"""

COST = """\
## 8. What saves time

The m = 4 run again, in float32 if the other arms are not, and with a head of which each update sees
{rate:.0%} of the class centres; the first seed by default, the others with `--parts cost-seeds`.
*Faster* is the ratio of the first seed's median time of an update.
"""


# LFW and YTF in percent on CASIA-WebFace with SphereFace-64. A mark says where a figure is from.
TABLE = "the table in the CosFace paper"
RECALLED = "recalled, not checked against a source"
MARKS = {"*": TABLE, "†": RECALLED, "‡": "the SphereFace paper, by a translation"}
BY_MARGIN = {
    "softmax": "97.88*",
    "m = 1": "97.90†",
    "m = 2": "98.40†",
    "m = 3": "99.25†",
    "m = 4": "99.42*",
}
BY_DEPTH = {
    ("softmax", 4): "96.60‡",
    ("m = 4", 4): "98.20‡",
    ("softmax", 64): "97.75‡",
    ("m = 4", 64): "99.42‡",
}


def legend(*marks: str) -> str:
    """Say what marks mean.

    Example:

    >>> legend("*")
    '* the table in the CosFace paper.'
    """
    return "; ".join(f"{mark} {MARKS[mark]}" for mark in marks) + "."
