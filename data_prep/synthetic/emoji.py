"""A second domain, fetched and not shipped: emoji, the same concepts as two houses draw them.

Of the npm packages emoji-datasource-google (Noto Emoji, Apache-2.0) and emoji-datasource-twitter (Twemoji, CC-BY 4.0).
A concept is an emoji; its pictures are one of each house, in every skin tone that it comes in. So a picture in the
other house's style is known for each of them.
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
from e4t import ConfigError

DOMAIN_WORD = "emoji"
VENDORS = {"google": "noto", "twitter": "twemoji"}
"""What captions call the drawings of each vendor."""
TONES = {"1F3FB": "pale", "1F3FC": "light", "1F3FD": "tan", "1F3FE": "brown", "1F3FF": "dark"}
"""Fitzpatrick modifiers, one for each person that is shown."""
IMAGE_SIZE = 64
CONFIG_NAME = "emoji.json"


@dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """What ``e4t emoji`` lays out."""

    packages: tuple[str, ...]
    """The two packages, as ``npm pack`` leaves them (.tgz)."""
    output: str = "data/emoji"
    """Folder that gets <emoji>/<picture>.png with .txt (style and tone) and .captions.txt (more, which name it)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "packages", tuple(self.packages))
        if len(self.packages) != len(VENDORS):
            raise ConfigError(f"emoji.packages: give both, emoji-datasource-{' and emoji-datasource-'.join(VENDORS)}")


@dataclass(frozen=True)
class Glyph:
    """An emoji by one house, in one skin tone if it has one."""

    emoji: str
    """Short name, which is the concept and the folder."""
    name: str
    vendor: str
    tone: str | None
    png: bytes

    def captions(self, rng: random.Random) -> list[str]:
        """Style and tone; complete; the concept alone; something left out."""
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
        """On white, RGB."""
        with Image.open(io.BytesIO(self.png)) as image:
            resized = image.convert("RGBA").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
        return Image.alpha_composite(Image.new("RGBA", resized.size, "white"), resized).convert("RGB")


def build_emoji_dataset(config: EmojiConfig, *, on_progress: ProgressCallback | None = None) -> Path:
    """Write the whole set; a finished one is left as it is. The folder appears by rename, when whole.

    Raises ConfigError if the folder holds anything else, DataError if a package is not one of the two.
    """
    output = Path(config.output)
    if (output / CONFIG_NAME).exists():
        return output
    if output.exists():
        raise ConfigError(f"{output} exists and was not made by `e4t emoji`; give another --output or delete it")
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
    """Plain drawings first, so that a concept's first pictures differ in style alone."""
    folder.mkdir(parents=True)
    rng = random.Random(folder.name)
    for index, glyph in enumerate(sorted(glyphs, key=lambda each: each.tone is not None)):
        scene, *others = glyph.captions(rng)
        glyph.image().save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(scene + "\n")
        (folder / f"{index:03d}.captions.txt").write_text("\n".join(others) + "\n")


def iter_glyphs(package: Path) -> Iterator[Glyph]:
    """Every drawing of a package. Nothing is extracted; members are looked up by the names that its index gives."""
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
        raise DataError(f"{package} is not a package of emoji ({error}); fetch it again with npm pack") from error


def _entries_with_tone(index: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Every emoji, and its variations of one skin tone."""
    for entry in index:
        yield entry, None
        for modifier, tone in TONES.items():
            if variation := entry.get("skin_variations", {}).get(modifier):
                yield {**entry, **variation}, tone


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(f"{member.name} is no file")
    return file.read()


def _folder_name(short_name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", short_name.lower())


def _normalize_name(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))
