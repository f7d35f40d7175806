"""Find the webdataset shards of a source."""

from itertools import islice

from data_prep.config import MANIFEST_NAME, SourceConfig
from data_prep.errors import DataError
from data_prep.sources.archives.archive_files import TAR_SUFFIXES, ArchiveFile, ArchiveFiles, find_archives
from data_prep.sources.archives.archive_reader import ArchiveReader
from data_prep.sources.archives.shard_samples import parse_json_object, split_name
from data_prep.sources.files.failures import listing_errors
from data_prep.sources.files.filesystem import FileTree, is_file, open_tree
from data_prep.sources.selection import Selection, is_hidden, is_image_path

INSPECTED_MEMBERS = 64
"""Members at the beginning of a tar that tell whether it is a webdataset shard."""
METADATA_SUFFIXES = (".json", ".txt", ".cls")


def find_shards(source: str, selection: Selection) -> tuple[ArchiveFiles, bool]:
    """Return the shards of a dataset made by e4t or else those that ``find_archives`` finds, and which it is.

    Raises DataError if there is none.
    """
    tree = open_tree(source, selection.read)
    if not source.lower().endswith(TAR_SUFFIXES) and has_manifest(tree):
        from data_prep.shards.manifest import Manifest

        with listing_errors(f"{tree.url}/{MANIFEST_NAME}"):
            content = tree.read(MANIFEST_NAME)
        splits = Manifest.parse(content, f"{tree.url}/{MANIFEST_NAME}").splits
        names = [f"{split}/{shard.name}" for split, shards in splits.items() for shard in shards if shard.samples]
        # Keys are unique within a dataset.
        return ArchiveFiles(tree, tuple(ArchiveFile(name, "") for name in names), ()), True
    try:
        return find_archives(source, selection, TAR_SUFFIXES), False
    except DataError as error:
        raise DataError(str(error).replace("no such archive", "no shard")) from error


def has_manifest(tree: FileTree) -> bool:
    """Return whether this is the folder of a dataset that ``e4t prepare`` made."""
    if not is_file(tree, MANIFEST_NAME):
        return False
    with listing_errors(f"{tree.url}/{MANIFEST_NAME}"):
        manifest = parse_json_object(tree.read(MANIFEST_NAME))
    return manifest is not None and {"splits", "config_digest"} <= manifest.keys()


def are_shards(files: ArchiveFiles, options: SourceConfig) -> bool:
    """Return whether archives are webdataset shards: tars with metadata beside the images, and without folders.

    Settings that tell the identity from the name of the image mean that they are archives.
    """
    first = files.archives[0].name
    has_labels = options.identities or options.attributes or options.pattern != SourceConfig().pattern
    if has_labels or not all(archive.name.lower().endswith(TAR_SUFFIXES) for archive in files.archives):
        return False
    visible = (
        member.name
        for member in ArchiveReader(files.tree).list_members(first)
        if member and not any(is_hidden(part) for part in member.name.split("/"))
    )
    names = list(islice(visible, INSPECTED_MEMBERS))
    with_metadata = {split_name(name)[0] for name in names if name.endswith(METADATA_SUFFIXES)}
    images = {split_name(name)[0] for name in names if is_image_path(name)}
    return bool(images & with_metadata) and not any("/" in name for name in names)
