"""Import path in the code files of versions that were registered before this module became ``pyfunc_model``."""

from pipelines.registry import pyfunc_model


class ServedRelease(pyfunc_model.ServedRelease):
    """Serve such a version with the output name of its signature."""

    images_output = "pictures"
