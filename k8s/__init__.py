"""What `e4t submit k8s` builds upon: a kustomize base, its overlays and components."""
