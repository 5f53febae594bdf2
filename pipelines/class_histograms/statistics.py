"""Class statistics of a data set, for a person and for a program."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from fastass.pipelines.class_histograms.histograms import ClassHistograms
from fastass.pipelines.class_histograms.label_values import has_label
from fastass.pipelines.packed.dataset import AnyDataset, PackedDataset


@dataclass(frozen=True)
class DatasetStatistics:
    """The histograms of all samples of `dataset`, summed up. labelled: images with a label."""

    dataset: AnyDataset
    histograms: ClassHistograms
    labelled: int

    @property
    def counted(self) -> int:
        """Labels that could be read."""
        return self.labelled - len(self.histograms.bad)

    def tree(self) -> dict[str, Any]:
        """All of it as JSON values. Shares are between 0 and 1; a class's share is of the pixels
        that are not ignored, `images_share` is of the labels that could be read."""
        found, data = self.histograms, self.dataset
        pixels, ignored = found.pixels.sum(axis=0), int(found.ignored.sum())
        images = (found.pixels > 0).sum(axis=0)
        total = int(pixels.sum())
        sizes = Counter((int(w), int(h)) for w, h in found.sizes if w)
        return {
            "root": str(data.root),
            "layout": data.layout,
            "split": data.split,
            "packed": isinstance(data, PackedDataset),
            "images": len(data),
            "labelled": self.labelled,
            "label_sizes": [
                {"width": w, "height": h, "labels": count}
                for (w, h), count in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
            ],
            "pixels": total + ignored,
            "ignored_pixels": ignored,
            "ignored_share": _share(ignored, total + ignored),
            "classes": [
                {
                    "train_id": c,
                    "name": name,
                    "pixels": int(pixels[c]),
                    "share": _share(pixels[c], total),
                    "images": int(images[c]),
                    "images_share": _share(images[c], self.counted),
                }
                for c, name in enumerate(found.classes)
            ],
            "bad_labels": list(found.bad.values()),
        }

    def text(self, sizes: int = 5) -> str:
        """A heading and a table with one line per class. sizes: how many of the sizes to list."""
        tree = self.tree()
        kind = f"{tree['layout']}, packed" if tree["packed"] else tree["layout"]
        lines = [
            f"{tree['root']} ({kind}), split {tree['split']}: {tree['images']} images, "
            f"{tree['labelled']} labelled"
        ]
        if not self.counted:
            return lines[0]
        listed = tree["label_sizes"]
        each = [f"{size['labels']} of {size['width']}x{size['height']}" for size in listed[:sizes]]
        more = f", {len(listed) - sizes} other sizes" if len(listed) > sizes else ""
        lines.append(f"label sizes: {', '.join(each)}{more}")
        lines.append(f"ignored: {tree['ignored_share']:.2%} of all pixels")
        rows = [
            (c["name"], c["pixels"], f"{c['share']:.3%}", c["images"], f"{c['images_share']:.1%}")
            for c in tree["classes"]
        ]
        heads = ("class", "pixels", "of classes", "images", "of images")
        table = tabulate(rows, heads, disable_numparse=True, colalign=("left", *["right"] * 4))
        lines += ["", table]
        if absent := [c["name"] for c in tree["classes"] if not c["pixels"]]:
            lines += ["", f"in no label: {', '.join(absent)}"]
        return "\n".join(lines)


def dataset_statistics(dataset: AnyDataset, histograms: ClassHistograms) -> DatasetStatistics:
    """The statistics of a data set, with the histograms of all its samples."""
    labelled = sum(has_label(dataset, i) for i in range(len(dataset)))
    return DatasetStatistics(dataset, histograms, labelled)


def _share(part: int | np.integer[Any], whole: int) -> float:
    return float(part) / whole if whole else 0.0
