"""ToyCity: a built-in data set of street scenes in two domains.

The source is rendered (clean, saturated) in the GTA5 or SYNTHIA layout; the target is photographed
(optics, light, noise, JPEG; another town) in the Cityscapes layout.

    scene, towns            a random street, and the statistics of the two towns
    objects/                houses, vehicles, people, …: what a street consists of
    rendering/              drawing surface, materials, picture and labels, camera, PNG files
    write, dataset          one image and its files; the whole data set
    class_frequencies       how often each class occurs
"""

from fastass.pipelines.toycity.class_frequencies import class_shares as class_shares
from fastass.pipelines.toycity.dataset import generate as generate
from fastass.pipelines.toycity.dataset import is_complete as is_complete
