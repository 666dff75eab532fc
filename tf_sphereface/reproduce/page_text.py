"""The page's fixed text. Numbers are filled in from what was measured."""

from __future__ import annotations

INTRODUCTION = """\
# The paper, reproduced

Liu, Wen, Yu, Li, Raj, Song, "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR
2017 (arXiv:1704.08063), says that a margin on the *angle* makes features of one person narrow and
those of different people far apart. `tf_sphereface-reproduce` runs the paper's experiments again,
on two CPU cores, and writes this page from its results: no figure on it was typed. What others
have published is marked *published*, with its source; all else is *measured here*, by

```
{command}
```

The same command goes on where it was stopped; `arms/*.json` holds every figure, `arms/*.npz` the
scores of every pair. The published networks were trained on 0.49 million faces of 10,572 people,
those here on some ten thousand: absolute accuracies cannot be compared, the differences between
rows can.
"""

EMBEDDINGS = """\
## 1. What the margin does to features

Small convolutional networks whose embedding has two or three dimensions, {steps} updates, on
{classes} classes each of: {data}. Drawn are the third of the pictures that was held out, in the
plane (top; lines: class centres), on the circle or the sphere, and as angles between all pairs of
pictures. A-Softmax's lambda falls from {base:g} to {minimum:g}, so the margin is felt nearly in
full.
"""

BOUNDS = """\
## 2. The lower bounds of m

When is every angle within a class smaller than every angle between two classes? Call it the
paper's property. With unit centres `W_1`, `W_2` at the angle `t12`, class 1's region is where
`psi_m(t1) > cos(t2)`, that is `m t1 < t2` (`t1`, `t2`: angles to the centres; psi falls like a
cosine that is not folded back, and below `-1` no cosine can follow it).

**Two classes.** On the great circle through both centres:

- between them `t1 + t2 = t12`, so the region of class 1 ends at `t1 = t12 / (m + 1)`;
- on the far side `t2 = t12 + t1`, so it ends at `t1 = t12 / (m - 1)`, if that point is less than
  pi away from `W_2`: `t12 <= (m - 1) / m pi`;
- the region is therefore `t12 / (m - 1) + t12 / (m + 1) = 2 m t12 / (m^2 - 1)` wide, and the gap
  between the two regions is `t12 - 2 t12 / (m + 1) = (m - 1) / (m + 1) t12`.

Width <= gap means `2 m <= (m - 1)^2`, or `m^2 - 4 m + 1 >= 0`: **m >= 2 + sqrt(3) = 3.732**,
whatever `t12`. Where the centres are further apart than `(m - 1) / m pi`, the far ends are cut by
the way round the back, `m t1 < 2 pi - t12 - t1`: the width is `2 pi / (m + 1)`, and the bound `m
>= 1 + 2 pi / t12` (3 for opposite centres). The paper's bound is the worst case of the two.

**Many classes.** With centres at equal angles `t` *on a circle*, each region has a neighbour on
both sides: width `2 t / (m + 1)`, gap `(m - 1) / (m + 1) t`, so **m >= 3**.

**The experiment** builds the regions by psi itself, for real-valued m: from each centre rays
leave in all directions, the end of the region on each is bisected, and the largest angle within a
region and the smallest between two are taken over all these points. The m at which they are
equal:
"""

BOUNDS_AFTER = """\
The derivation's assumptions matter. It takes regions on one circle. Where the centres stand
evenly on a sphere, regions have corners, which are further apart than their opposite edges, and
the crossing lies *above* 3 ({low:.3f} to {high:.3f} here): m = 4 has the property, m = 3 misses
it. It also takes class centres as given and all points as members of their region. Training puts
features where the loss is low, not at the edges; and at lambda = 5 the margin that is felt at m =
4 is that of m = 1.37, below every bound.
"""

BOUNDARIES = """\
## 3. Decision boundaries

Two classes in the plane; coloured is what each criterion gives to a class with its margin, and
what is not coloured belongs to neither. The length of a class's weights and its bias move
softmax's boundary; unit centres turn it into the bisector; the margin splits it in two, `(m - 1)
/ (m + 1)` of the angle apart.
"""

MARGIN = """\
## 4. The ablation on m

{train}; verified on {test}. {recipe} Every row is the mean over {seeds} seeds, the same for each
row; ± is the standard error over the folds (of the mean over seeds), *spread* the standard
deviation over seeds. Angles are means over pairs; the angular Fisher score is of the test images
(lower is better).
"""

MARGIN_FELT = """\
*Margin felt* is `angular.effective_margin` at the end of the run: lambda's minimum leaves little of
m, and one step of m is a tenth of a margin. That is why neighbouring rows are hard to tell apart on
a small set, while m = 4 and softmax are not. A smaller minimum makes the margin larger; section 5
has what becomes of accuracy then.
"""

PAIRED = """\
The same pairs, paired: difference in points ± its standard error over the folds (of the mean over
the seeds), and p: the pairs' signs flipped at random. It is the chance of such a difference on
other pairs if there were none. Whether it repeats with other seeds, the standard error *over
seeds* and each seed's own difference say. A seed is the order of the faces and the first weights;
another machine, or another number of threads, adds in another order, and the same seed ends
elsewhere, if not as far as another seed does ([real-faces.md](real-faces.md)).
"""

LAMBDA = """\
## 5. Lambda's minimum, and the released layer's gradient

All with m = 4 and one seed, paired with the row of minimum 5 (exact gradient), the released
value. The curve is scaled so that each minimum is reached after the same share of the run; 0 is
scaled to reach 0.05. *Margin felt* is `angular.effective_margin` at the end.
"""

LOSSES = """\
## 7. Every loss of the library

{seeds}, the same recipe; margins and scales for some hundred people
([choose-a-loss.md](../start/choose-a-loss.md)).
Paired with softmax, and with A-Softmax m = 4, on the same pairs. *Length of x* is the median
length of an embedding: the gradient of a loss with a scale is `s / ‖x‖` times A-Softmax's, so a
long x means short steps. *Accuracy in training*, of the first seed, tells how far each loss has
come in these few epochs: those with a scale have learnt less, and a longer run may rank them
otherwise.
"""

RECIPE_AFTER = """\
These are runs of the preset `short`. The best recipe that is known here for a small set is the
preset `small`: m = 4, lambda's minimum of 5, strong augmentation and five times as many epochs. It
is compared with softmax and m = 1 in [real-faces.md](real-faces.md).
"""

COST = """\
## 8. What saves time

The m = 4 run again, in float32 if the other arms are not, and with a head of which each update sees
{rate:.0%} of the class centres; the first seed by default, the others with `--parts cost-seeds`.
They are paired with the same seeds of the first row. *Within* says whether the difference is
below two standard errors over the folds, and below two standard errors of a difference of as many
seeds each, by the standard deviation over seeds of all rows of section 4. *Faster* is the ratio of
the first seed's median time of an update, so that other work on the machine, such as other arms,
counts in it.
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
