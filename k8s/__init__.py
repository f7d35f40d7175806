"""Kustomize base, overlays and components from which `e4t submit k8s` renders its manifests."""
