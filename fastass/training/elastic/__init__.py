"""Elastic training: processes may end and come while the others go on."""
