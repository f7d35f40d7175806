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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.errors import ConfigError, DataError
from data_prep.storage.atomic import whole_folder

DOMAIN_WORD = "emoji"
HOUSES = {"google": "noto", "twitter": "twemoji"}
"""What captions call the drawings of each vendor."""
TONES = {"1F3FB": "pale", "1F3FC": "light", "1F3FD": "tan", "1F3FE": "brown", "1F3FF": "dark"}
"""Fitzpatrick modifiers, one for each person that is shown."""
SIDE = 64
DONE = "emoji.json"


@dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """What ``e4t emoji`` lays out."""

    packages: tuple[str, ...]
    """The two packages, as ``npm pack`` leaves them (.tgz)."""
    output: str = "data/emoji"
    """Folder that gets <emoji>/<picture>.png with .txt (style and tone) and .captions.txt (more, which name it)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "packages", tuple(self.packages))
        if len(self.packages) != len(HOUSES):
            raise ConfigError(f"emoji.packages: give both, emoji-datasource-{' and emoji-datasource-'.join(HOUSES)}")


@dataclass(frozen=True)
class Drawing:
    """An emoji by one house, in one skin tone if it has one."""

    emoji: str
    """Short name, which is the concept and the folder."""
    name: str
    house: str
    tone: str | None
    png: bytes

    def captions(self, rng: random.Random) -> list[str]:
        """Style and tone; complete; the concept alone; something left out."""
        toned = f" with {self.tone} skin" if self.tone else ""
        by = f" drawn by {self.house}"
        named = f"an {DOMAIN_WORD} of {self.name}"
        partly = rng.choice((f"an {DOMAIN_WORD}{toned}", f"{named}{toned}", f"an {DOMAIN_WORD}{by}", f"{named}{by}"))
        return [f"an {DOMAIN_WORD}{toned}{by}", f"{named}{toned}{by}", named, partly]

    def picture(self) -> Image.Image:
        """On white, RGB."""
        with Image.open(io.BytesIO(self.png)) as image:
            drawn = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")


def lay_out_emoji(config: EmojiConfig, *, on_emoji: Callable[[int, int], None] | None = None) -> Path:
    """Write the whole set; a finished one is left as it is. The folder appears by rename, when whole.

    Raises ConfigError if the folder holds anything else, DataError if a package is not one of the two.
    """
    output = Path(config.output)
    if (output / DONE).exists():
        return output
    if output.exists():
        raise ConfigError(f"{output} exists and was not made by `e4t emoji`; give another --output or delete it")
    emoji: dict[str, list[Drawing]] = {}
    for package in config.packages:
        for drawing in drawings(Path(package)):
            emoji.setdefault(drawing.emoji, []).append(drawing)
    with whole_folder(output) as folder:
        for done, (name, drawn) in enumerate(sorted(emoji.items()), 1):
            _write(folder / name, drawn)
            if on_emoji:
                on_emoji(done, len(emoji))
        (folder / DONE).write_text(json.dumps(asdict(config), indent=2) + "\n")
    return output


def _write(folder: Path, drawn: list[Drawing]) -> None:
    """Plain drawings first, so that a concept's first pictures differ in style alone."""
    folder.mkdir(parents=True)
    rng = random.Random(folder.name)
    for index, drawing in enumerate(sorted(drawn, key=lambda each: each.tone is not None)):
        scene, *others = drawing.captions(rng)
        drawing.picture().save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(scene + "\n")
        (folder / f"{index:03d}.captions.txt").write_text("\n".join(others) + "\n")


def drawings(package: Path) -> Iterator[Drawing]:
    """Every drawing of a package. Nothing is extracted; members are looked up by the names that its index gives."""
    try:
        with tarfile.open(package) as tar:
            vendor = json.loads(_read(tar, tar.getmember("package/package.json")))["name"].removeprefix(
                "emoji-datasource-"
            )
            if vendor not in HOUSES:
                raise DataError(f"{package} holds emoji of {vendor}; give emoji-datasource-{', '.join(HOUSES)}")
            index = json.loads(_read(tar, tar.getmember("package/emoji.json")))
            files = {member.name: member for member in tar.getmembers()}
            for entry, tone in _entries(index):
                member = files.get(f"package/img/{vendor}/64/{entry['image']}")
                if member and entry.get(f"has_img_{vendor}"):
                    png = _read(tar, member)
                    yield Drawing(_folder(entry["short_name"]), _words(entry["name"]), HOUSES[vendor], tone, png)
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise DataError(f"{package} is not a package of emoji ({error}); fetch it again with npm pack") from error


def _entries(index: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Every emoji, and its variations of one skin tone."""
    for entry in index:
        yield entry, None
        for modifier, tone in TONES.items():
            if variation := entry.get("skin_variations", {}).get(modifier):
                yield {**entry, **variation}, tone


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(f"{member.name} is no file")
    return file.read()


def _folder(short_name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", short_name.lower())


def _words(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))
