# %% [markdown]
# # Tutorial: your own images
#
# You have labelled images from a renderer (the *source*) and photographs of your camera (the
# *target*), of which a few have labels. This tutorial trains a segmentation network on both,
# looks at its predictions, and exports it. It takes about two minutes on two CPU cores.
#
# The tutorial makes its images itself, so that you can run it first. Then put your own files into
# the same folders.

# %%
import shutil
from pathlib import Path

import fastass

fastass.wait_passively()  # before torch is imported: faster on cores that other programs use too

# %% [markdown]
# ## 1. Put the images into folders
#
# fastass reads this layout, with PNG, JPEG or TIFF images and one label value per pixel:
#
# ```text
# tutorial/synthetic/  classes.yaml  images/a.png        labels/a.png
# tutorial/real/       classes.yaml  images/train/x.jpg  labels/train/x.png
#                                    images/val/z.jpg    labels/val/z.png
# ```
#
# The next cell fills the folders with images of ToyCity, the built-in data set. Only six training
# photographs keep their label.

# %%
from fastass.pipelines.toycity import generate

SOURCE, TARGET, VAL, LABELLED = 120, 80, 12, 6
raw, synthetic, real = Path("tutorial/raw"), Path("tutorial/synthetic"), Path("tutorial/real")
generate(raw, source=SOURCE, target=TARGET, val=VAL, workers=1)

shutil.copytree(raw / "gta5", synthetic, dirs_exist_ok=True)
for split in ("train", "val"):
    for part in ("images", "labels"):
        (real / part / split).mkdir(parents=True, exist_ok=True)
    for image in sorted((raw / "cityscapes" / "leftImg8bit" / split).glob("*/*.png")):
        name = image.name.removesuffix("_leftImg8bit.png")
        label = (
            raw
            / "cityscapes"
            / "gtFine"
            / split
            / image.parent.name
            / f"{name}_gtFine_labelIds.png"
        )
        shutil.copy(image, real / "images" / split / f"{name}.png")
        labelled = len(list((real / "labels" / "train").iterdir()))
        if split == "val" or labelled < LABELLED:
            shutil.copy(label, real / "labels" / split / f"{name}.png")

# %% [markdown]
# ## 2. Name the classes
#
# `classes.yaml` says which label value is which class. All values that it does not list are
# ignored here.

# %%
CLASSES = """\
names: [road, building, vegetation, sky, person, car]
ids: [7, 11, 21, 23, 24, 26]
ignore: others
"""
for folder in (synthetic, real):
    (folder / "classes.yaml").write_text(CLASSES)

# %% [markdown]
# ## 3. Check the data
#
# Opening a data set checks that every file has its pair. `fastass info tutorial/real` on the
# command line also counts the classes.

# %%
source = fastass.open_dataset(synthetic)
target = fastass.open_dataset(real, labels="optional")
print(len(source), "source images,", len(target), "target images,", source.classes.names)

# %% [markdown]
# ## 4. Train
#
# A list names the labelled photographs. The preset `toycity` has a tiny network that trains on a
# CPU. It first learns on the source alone, for `start_steps`; then it adapts to the target, for
# `steps`. For a real task, take a preset such as `gta5_to_cityscapes_csa_100`, pretrained
# weights, and a GPU; [Your own data](own-data.md) shows the command.

# %%
names = sorted(path.stem for path in (real / "labels" / "train").iterdir())
Path("tutorial/labelled.txt").write_text("\n".join(names) + "\n")

losses = []
summary = fastass.train(
    "toycity",
    out="tutorial/run",
    overwrite=True,
    plain=True,
    data_source=str(synthetic),
    data_target=str(real),
    labelled_list="tutorial/labelled.txt",
    source_size=(192, 108),
    target_size=(192, 96),
    start_steps=150,
    steps=150,
    on_record=lambda record: losses.append(record.get("terms", {}).get("seg_source")),
)
print(f"mIoU on the target's validation images: {summary['miou']:.1f} %")
print("loss on source images:", [round(loss, 2) for loss in losses if loss is not None][::5])

# %% [markdown]
# On two CPU cores, mIoU was 59 % after the source and 66 to 68 % after the adaptation; processors
# round differently.
#
# `tutorial/run` now holds checkpoints, the configuration and all numbers. With `resume=True`
# instead of `overwrite=True`, the same call continues an interrupted run.
#
# ## 5. Look
#
# The report is one HTML page with curves, pictures and a confusion matrix. Open
# `tutorial/report.html` in a browser.

# %%
fastass.write_report("tutorial/run", "tutorial/report.html")

# %% [markdown]
# Predict a photograph: each pixel of the result is the number of a class.

# %%
from PIL import Image

network = fastass.load("tutorial/run")
photo = next((real / "images" / "val").iterdir())
labels = network.predict(photo)
print(labels.shape, labels.dtype, network.classes.names[labels[-1, labels.shape[1] // 2]])

colours = Image.fromarray(network.colorize(labels))
colours.save("tutorial/prediction.png")
colours

# %% [markdown]
# Measure it on labelled images:

# %%
scores = fastass.evaluate(network, real)
print(f"mIoU {scores.miou:.1f} %", scores.per_class_iou)

# %% [markdown]
# ## 6. Export
#
# The folder works with `fastass.load` and with plain PyTorch. `format="onnx"` writes one file for
# ONNX Runtime and needs `pip install 'fastass[export]'`. Each export is read back and compared
# with the network.

# %%
print(fastass.export("tutorial/run", "tutorial/model", format="safetensors", overwrite=True))
again = fastass.load("tutorial/model").predict(photo)
print("same prediction:", bool((again == labels).all()))
