"""Backbones of other packages, as `fastass.models.backbone.Backbone`."""
