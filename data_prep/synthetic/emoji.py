"""Demo domain "emoji": the same emoji as drawn by two vendors, from packages that the user downloads.

The images come from the npm packages emoji-datasource-google (Noto Emoji, Apache-2.0) and emoji-datasource-twitter
(Twemoji, CC-BY 4.0). An identity is an emoji; its images are the drawings of both vendors in every skin tone, so the
reference image in the other vendor's style is known for each of them.
"""

import io
import json
import random
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.config import ProgressCallback
from data_prep.errors import DataError
from data_prep.storage.atomic import atomic_dir
from e4t_errors import ConfigError

DOMAIN_WORD = "emoji"
VENDORS = {"google": "noto", "twitter": "twemoji"}
"""Name of each vendor's style in captions, by package suffix."""
TONES = {"1F3FB": "pale", "1F3FC": "light", "1F3FD": "tan", "1F3FE": "brown", "1F3FF": "dark"}
"""Fitzpatrick skin tone modifiers and their words in captions."""
IMAGE_SIZE = 64
"""Width and height of the images in pixels."""
CONFIG_NAME = "emoji.json"
"""File in the output folder with the configuration; it marks a complete dataset."""


@dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """Configuration of ``e4t demo emoji``."""

    packages: tuple[str, ...]
    """The two packages, as downloaded by ``npm pack`` (.tgz)."""
    output: str = "data/emoji"
    """Output folder. Each image <emoji>/<number>.png gets a .txt (style and skin tone) and a .captions.txt (further
    captions, some with the name of the emoji)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "packages", tuple(self.packages))
        if len(self.packages) != len(VENDORS):
            raise ConfigError(f"emoji: give both packages, emoji-datasource-{' and emoji-datasource-'.join(VENDORS)}")


@dataclass(frozen=True)
class Glyph:
    """An emoji as drawn by one vendor, in one skin tone if it has skin."""

    emoji: str
    """Short name of the emoji: identity and folder name."""
    name: str
    """Full name in captions."""
    vendor: str
    """Style name, one of the values of ``VENDORS``."""
    tone: str | None
    """Skin tone, one of the values of ``TONES``; None for the plain drawing."""
    png: bytes
    """Image file with a transparent background."""

    def captions(self, rng: random.Random) -> list[str]:
        """Return four captions: style and tone, complete, name only, and a random subset."""
        with_tone = f" with {self.tone} skin" if self.tone else ""
        by_vendor = f" drawn by {self.vendor}"
        with_name = f"an {DOMAIN_WORD} of {self.name}"
        partial_caption = rng.choice(
            (
                f"an {DOMAIN_WORD}{with_tone}",
                f"{with_name}{with_tone}",
                f"an {DOMAIN_WORD}{by_vendor}",
                f"{with_name}{by_vendor}",
            )
        )
        return [
            f"an {DOMAIN_WORD}{with_tone}{by_vendor}",
            f"{with_name}{with_tone}{by_vendor}",
            with_name,
            partial_caption,
        ]

    def image(self) -> Image.Image:
        """Return the drawing on white in RGB, ``IMAGE_SIZE`` pixels square."""
        with Image.open(io.BytesIO(self.png)) as image:
            resized = image.convert("RGBA").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
        return Image.alpha_composite(Image.new("RGBA", resized.size, "white"), resized).convert("RGB")


def build_emoji_dataset(config: EmojiConfig, *, on_progress: ProgressCallback | None = None) -> Path:
    """Write the dataset atomically (the folder is renamed when complete); a complete one is left unchanged.

    Raises ConfigError if the folder holds anything else, DataError if a package is not one of the two.
    """
    output = Path(config.output)
    if (output / CONFIG_NAME).exists():
        return output
    if output.exists():
        raise ConfigError(
            f"{output} exists and was not created by `e4t demo emoji`; give another --output or delete it"
        )
    emoji: dict[str, list[Glyph]] = {}
    for package in config.packages:
        for glyph in iter_glyphs(Path(package)):
            emoji.setdefault(glyph.emoji, []).append(glyph)
    with atomic_dir(output) as folder:
        for done, (name, glyphs) in enumerate(sorted(emoji.items()), 1):
            _write_images(folder / name, glyphs)
            if on_progress:
                on_progress(done, len(emoji))
        (folder / CONFIG_NAME).write_text(json.dumps(asdict(config), indent=2) + "\n")
    return output


def _write_images(folder: Path, glyphs: list[Glyph]) -> None:
    """Write the images of an emoji, plain drawings first, so that the first images differ in style only."""
    folder.mkdir(parents=True)
    rng = random.Random(folder.name)
    for index, glyph in enumerate(sorted(glyphs, key=lambda each: each.tone is not None)):
        scene, *others = glyph.captions(rng)
        glyph.image().save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(scene + "\n")
        (folder / f"{index:03d}.captions.txt").write_text("\n".join(others) + "\n")


def iter_glyphs(package: Path) -> Iterator[Glyph]:
    """Yield the drawings of a package. Members are read by the names in its index; nothing is extracted to disk."""
    try:
        with tarfile.open(package) as tar:
            vendor = json.loads(_read_member(tar, tar.getmember("package/package.json")))["name"].removeprefix(
                "emoji-datasource-"
            )
            if vendor not in VENDORS:
                raise DataError(f"{package} holds emoji of {vendor}; give emoji-datasource-{', '.join(VENDORS)}")
            index = json.loads(_read_member(tar, tar.getmember("package/emoji.json")))
            files = {member.name: member for member in tar.getmembers()}
            for entry, tone in _entries_with_tone(index):
                member = files.get(f"package/img/{vendor}/64/{entry['image']}")
                if member and entry.get(f"has_img_{vendor}"):
                    png = _read_member(tar, member)
                    yield Glyph(
                        _folder_name(entry["short_name"]), _normalize_name(entry["name"]), VENDORS[vendor], tone, png
                    )
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise DataError(f"{package} is not an emoji package ({error}); download it again with npm pack") from error


def _entries_with_tone(index: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield every index entry and its variations with a single skin tone."""
    for entry in index:
        yield entry, None
        for modifier, tone in TONES.items():
            if variation := entry.get("skin_variations", {}).get(modifier):
                yield {**entry, **variation}, tone


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(f"{member.name} is not a file")
    return file.read()


def _folder_name(short_name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", short_name.lower())


def _normalize_name(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))
