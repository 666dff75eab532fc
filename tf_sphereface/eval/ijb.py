"""IJB-B and IJB-C: verification and search of templates, from the files as they circulate."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.face_reader import Problems
from tf_sphereface.alignment.suffixes import without_suffix
from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.eval.identification.rates import RatesAtFar
from tf_sphereface.eval.ijb_files import NAMES, PUBLISHED, FacePoints, IJBFiles, Subset, read_files
from tf_sphereface.eval.measures.hints import hint_of_vectors, hints_of
from tf_sphereface.eval.quality import QualityReport, one_length, quality_report
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings
from tf_sphereface.eval.scoring.sources import EmbeddingOptions, embedding_source, open_embedder
from tf_sphereface.eval.template_search import TemplateSearch, search_templates
from tf_sphereface.eval.templates import (
    TemplateSums,
    Variant,
    curve_of,
    curve_points,
    template_cosines,
)
from tf_sphereface.utils.messages import ProgressCallback, SphereFaceWarning

__all__ = [
    "IJBResult",
    "TemplateSearch",
    "Variant",
    "VariantResult",
    "evaluate",
]


@dataclasses.dataclass(frozen=True, eq=False)
class VariantResult:
    """What one variant reached; rates are fractions.

    Attributes:
        variant: how image embeddings went into the templates.
        auc: area under the ROC curve of the pairs.
        verification: TAR at FAR with exact 95 % intervals, None where fewer than ten impostor pairs
            would decide. The intervals take the pairs as independent.
        search: the 1:N search; None where its csv files are not there.
    """

    variant: Variant
    auc: float
    verification: RatesAtFar
    search: TemplateSearch | None


@dataclasses.dataclass(frozen=True, eq=False)
class IJBResult:
    """The outcome on IJB-B or IJB-C.

    Attributes:
        name: `"ijbb"` or `"ijbc"`.
        protocol: how it was measured, in a few sentences.
        embedder: the embedder, or the stored embeddings.
        counts: numbers of images, media, templates, pairs, genuine pairs.
        variants: the headline first (norms kept, times the detector's score, with the mirror
            image where it was embedded), then the others.
        curve: points of the headline's ROC curve, of `templates.curve_points`.
        hints: what there is to be asked about the headline's scores.
        images: names of the images, (n,).
        norms: float64 (n,), the length of each image's embedding before any scaling, of image and
            mirror image concatenated where both were embedded.
        detector_scores: float64 (n,), of the images.
        qualities: what the norms and the detector's scores tell of the headline's errors.
    """

    name: str
    protocol: str
    embedder: Embedder | StoredEmbeddings
    counts: dict[str, int]
    variants: list[VariantResult]
    curve: list[dict[str, Any]]
    hints: list[str]
    images: list[str]
    norms: NDArray[np.float64]
    detector_scores: NDArray[np.float64]
    qualities: list[QualityReport]

    @property
    def headline(self) -> VariantResult:
        """The variant that is published most: all of norm, detector score and mirror image."""
        return self.variants[0]

    @property
    def complete(self) -> bool:
        """Whether images, templates and pairs are as many as in the published set."""
        return all(self.counts[what] == count for what, count in PUBLISHED[self.name].items())


def evaluate(
    embedder: Any,
    root: str | os.PathLike[str],
    subset: Subset,
    *,
    flip: bool = True,
    progress: ProgressCallback | None = None,
    cache: str | os.PathLike[str] | None = None,
    stages: Callable[[str], ProgressCallback] | None = None,
) -> IJBResult:
    r"""Run IJB-B's or IJB-C's verification, and the search where its files are there.

    Each image is aligned by its five points and embedded once; its embedding goes into the sums of
    its templates, in all variants, and is forgotten. A template is the sum over its media of the
    mean over the medium's images, at unit length; a score is the cosine of two templates.

    Args:
        embedder: what `load_embedder` takes. Or a `.npz` file of embeddings (`StoredEmbeddings`)
            by the images' names, such as `"1.jpg"`.
        root: the folder of the set, see `ijb_files.read_files`; images in `loose_crop/`.
        subset: `"ijbb"` or `"ijbc"`.
        flip: whether mirror images are embedded and added; without it there are half the variants.
        progress: called with (images done, images in all).
        cache: as for `lfw.evaluate`: a killed run goes on.
        stages: called with what takes long beside the embedding, `"reading pairs"` and
            `"scoring pairs"`; returns what is called with (done, in all).

    Raises:
        FileNotFoundError: files of the set are missing; all are named.
        ValueError: a file is malformed, files do not fit together, or images are missing or cannot
            be used (all are counted, the first ten named).

    A `SphereFaceWarning` says where the counts are not those of the published set: files cut off
    between two lines look whole.

    Example:

    >>> from tf_sphereface.eval.scoring import write_embeddings
    >>> names = ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    >>> lists = {
    ...     "name_5pts_score": [f"{name} 38 52 74 52 56 72 40 92 71 92 0.9" for name in names],
    ...     "face_tid_mid": [f"{name} {k} {k}" for k, name in enumerate(names)],
    ...     "template_pair_label": ["0 1 1", "2 3 1", "0 2 0", "1 3 0"]}
    >>> Path("meta").mkdir()
    >>> for name, lines in lists.items():
    ...     _ = Path("meta", f"ijbc_{name}.txt").write_text("\n".join(lines))
    >>> write_embeddings("faces.npz", names, [[1, 0], [2, 0], [0, 1], [0, 3]])
    >>> with warnings.catch_warnings(action="ignore"):  # that the set is smaller than IJB-C
    ...     result = evaluate("faces.npz", ".", "ijbc", flip=False)
    >>> result.headline.auc
    1.0
    """
    files = read_files(root, subset, None if stages is None else stages("reading pairs"))
    _warn_of_counts(files)
    options = EmbeddingOptions(flip, cache=cache, progress=progress)
    model = open_embedder(embedder, options)
    sums, aligned = _embed(model, files, options)
    results: list[VariantResult] = []
    hints: list[str] = []
    curve: list[dict[str, Any]] = []
    qualities: list[QualityReport] = []
    variants = sums.variants
    show = None if stages is None else stages("scoring pairs")
    for number, variant in enumerate(variants):
        templates = sums.pop(variant, files.template_ids)
        part = None if show is None else _part(show, number, len(variants))
        scores = template_cosines(templates, files.left, files.right, progress=part)
        if not results:
            curve = curve_points(scores, files.is_same)
            qualities = _qualities(files, sums, scores)
            hints = [*hints_of(scores, files.is_same), hint_of_vectors(templates) or ""]
        auc, rates = curve_of(scores, files.is_same)
        search = None
        if files.probes is not None:
            search = search_templates(templates, files.galleries, files.probes)
        results.append(VariantResult(variant, auc, rates, search))
    return IJBResult(
        name=subset,
        protocol=_describe(files, results[0].variant, aligned),
        embedder=model,
        counts={**files.counts, "media": files.num_media},
        variants=results,
        curve=curve,
        hints=list(dict.fromkeys(hint for hint in hints if hint)),
        images=files.images,
        norms=sums.norms,
        detector_scores=files.detector_scores,
        qualities=qualities,
    )


def _part(show: ProgressCallback, number: int, parts: int) -> ProgressCallback:
    """Return what shows the progress of one of several equal parts."""
    return lambda done, total: show(number * total + done, parts * total)


def _qualities(
    files: IJBFiles, sums: TemplateSums, scores: NDArray[np.float32]
) -> list[QualityReport]:
    """Return what the norms and the detector's scores tell of the errors, by template.

    A template's quality is the mean over its media of the mean over their images, as its embedding
    is; a pair takes the lower of its two.
    """
    reports = []
    for name, what, values, reason in (
        ("norm", "length of the embedding before any scaling", sums.norms, one_length(sums.norms)),
        ("detector_score", "face detector's score", files.detector_scores, ""),
    ):
        means = sums.template_means(values)
        description = (
            f"an image's: {what}; a template's: mean over its media of the mean over their images; "
            "the lower of a pair's two"
        )
        pairs = np.minimum(means[files.left], means[files.right])
        reports.append(
            quality_report(
                name, description, means, pairs, scores, files.is_same, meaningless=reason
            )
        )
    return reports


def _embed(
    model: Embedder | StoredEmbeddings, files: IJBFiles, options: EmbeddingOptions
) -> tuple[TemplateSums, bool]:
    """Return the sums of all images, and whether these were aligned here."""
    folder, names = None, files.images
    if not isinstance(model, StoredEmbeddings):
        folder = files.root / "loose_crop"
        names = _find_crops(folder, names)
        points = FacePoints(files.points_file, names, files.points)
        options = dataclasses.replace(options, landmarks=points)
    source = embedding_source(model, folder, options)
    sums = TemplateSums(
        files.image,
        files.template,
        files.weight,
        detector_scores=files.detector_scores,
        num_templates=len(files.template_ids),
        embedding_dim=source.embedding_dim,
        flip=source.flip,
        names=names,
    )
    done = 0
    try:
        for plain, mirrored in source.stream(names):
            sums.add(plain, mirrored)
            done += len(plain)
            if options.progress is not None:
                options.progress(done, len(names))
    finally:
        source.close()
    source.check(len(names))
    return sums, folder is not None


def _find_crops(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the images under the names that they have in the folder, which is listed once.

    A ValueError counts those that are missing, before hours of embedding.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Argument `root` must hold the images in loose_crop/. Received: no folder {folder}"
        )
    there = set(os.listdir(folder))
    alike: dict[str, str] = {}
    if any(name not in there for name in names):
        alike = {without_suffix(name): name for name in sorted(there)}
    problems = Problems()
    located = []
    for name in names:
        place = name if name in there else alike.get(without_suffix(name))
        if place is None:
            problems.add(name, "no such file")
        else:
            located.append(place)
    problems.raise_if_any(len(names), folder)
    return located


def _warn_of_counts(files: IJBFiles) -> None:
    """Warn where the files do not hold the published set."""
    counts, published = files.counts, PUBLISHED[files.subset]
    if counts == published:
        return
    same = [NAMES[name] for name, other in PUBLISHED.items() if other == counts]
    found = ", ".join(
        f"{count:,} of {published[what]:,} {what}"
        for what, count in counts.items()
        if count != published[what]
    )
    warnings.warn(
        f"this is not the published {NAMES[files.subset]}, its figures cannot stand beside others: "
        f"{found}" + (f". These are the counts of {same[0]}" if same else ""),
        SphereFaceWarning,
        stacklevel=3,
    )


def _describe(files: IJBFiles, headline: Variant, aligned: bool) -> str:
    """Return how the figures were measured."""
    counts = files.counts
    impostor = counts["pairs"] - counts["genuine"]
    layout = "" if counts == PUBLISHED[files.subset] else "A set in the layout of "
    what = "image and mirror image, summed" if headline.flip else "the image alone"
    return (
        f"{layout}{NAMES[files.subset]}: {counts['pairs']:,} pairs ({counts['genuine']:,} genuine, "
        f"{impostor:,} impostor) of {counts['templates']:,} templates of {counts['images']:,} "
        f"images; {'aligned by the five points of the set; ' if aligned else ''}cosine of the sums "
        "over media of the mean over their images. The headline, "
        f"{headline.mode}: embeddings of {what}, lengths kept, times the detector's scores. "
        "Thresholds are chosen on these very pairs, as everywhere on this set."
    )
