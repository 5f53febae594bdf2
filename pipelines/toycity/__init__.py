"""ToyCity: a built-in data set of street scenes in two domains.

The source is rendered (clean, saturated) in the GTA5 or SYNTHIA layout; the target is photographed
(optics, light, noise, JPEG; another town) in the Cityscapes layout.

    canvas   the view and the buffer of fragment numbers      look     materials of the two domains
    solids   boxes and their faces                            scene    what stands where
    street, plots, furniture, vehicles, people                the things themselves
    render   fragments → picture and labels                   camera   picture → image
    png, write, dataset                                       files, layouts, the whole set
"""

from fastass.pipelines.toycity.dataset import generate as generate
from fastass.pipelines.toycity.dataset import is_complete as is_complete
from fastass.pipelines.toycity.shares import class_shares as class_shares
