"""ToyCity: a built-in data set of street scenes in two domains.

The source is rendered (clean, saturated) in the GTA5 or SYNTHIA layout; the target is photographed
(optics, light, noise, JPEG; another town) in the Cityscapes layout.

    canvas, solids                      the view, the buffer of fragment numbers, boxes in space
    look, towns                         what differs between the domains: materials, statistics
    street, houses, greenery, plots,
    furniture, vehicles, people         the things themselves
    traffic, scene                      what stands where
    render, camera                      fragments → picture and labels → image
    png, write, dataset, shares         files, layouts, the whole set, its class statistics
"""

from fastass.pipelines.toycity.class_frequencies import class_shares as class_shares
from fastass.pipelines.toycity.dataset import generate as generate
from fastass.pipelines.toycity.dataset import is_complete as is_complete
