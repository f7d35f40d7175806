"""Demo domain "faces": synthetic faces with known attributes.

The artwork is Open Peeps (CC0 1.0, Pablo Stanley) as packaged in ``dicebear-styles``, composed by ``dicebear-core`` and
rasterized by ``resvg``. An *identity* holds the attributes that all images of a person share, a *scene* those that
change. Any identity can be rendered in any scene, so the reference image of every prompt edit is known.
"""

import hashlib
import io
import json
import random
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import resvg_py
from dicebear import Avatar, Style
from PIL import Image

from data_prep.config import ProgressCallback
from data_prep.errors import DataError
from data_prep.processes import run_processes
from data_prep.storage.atomic import atomic_dir
from data_prep.synthetic.vocabulary import ACCESSORIES, BACKGROUNDS, BEARDS, CLOTHES, EXPRESSIONS, HAIR, HEADS, SKINS
from e4t_errors import ConfigError

DOMAIN_WORD = "person"
BEARD_PROBABILITY, ACCESSORY_PROBABILITY = 0.4, 0.45
SCALE_RANGE = (0.92, 1.08)
MAX_SHIFT_PERCENT = 5.0
CONFIG_NAME = "faces.json"
"""File in the output folder with the configuration; it marks a complete dataset."""
_OLD_KEYS = {"identities": "num_identities", "pictures": "images_per_identity"}
"""Keys that earlier versions wrote and what they are called now."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Attributes that all images of a person share; values are keys of ``data_prep.synthetic.vocabulary``."""

    head: str
    hair: str
    skin: str
    beard: str
    accessory: str

    @property
    def name(self) -> str:
        """Folder name, which ``parse`` converts back. It depends on the attributes only, not on the seed."""
        return "-".join((self.head, self.hair, self.skin, self.beard, self.accessory))

    @classmethod
    def parse(cls, name: str) -> "Identity":
        """Read an identity from its folder name. Raises DataError for a name that ``name`` does not produce."""
        parts = name.split("-")
        tables: tuple[Collection[str], ...] = (HEADS, HAIR, SKINS, BEARDS, ACCESSORIES)
        if len(parts) != len(tables) or any(part not in table for part, table in zip(parts, tables, strict=True)):
            raise DataError(f"{name!r} is not the name of an identity; expected head-hair-skin-beard-accessory")
        return cls(head=parts[0], hair=parts[1], skin=parts[2], beard=parts[3], accessory=parts[4])

    @classmethod
    def random(cls, rng: random.Random) -> "Identity":
        """Sample an identity; most people have neither beard nor glasses."""
        return cls(
            head=rng.choice(list(HEADS)),
            hair=rng.choice(list(HAIR)),
            skin=rng.choice(list(SKINS)),
            beard=rng.choice(list(BEARDS)[1:]) if rng.random() < BEARD_PROBABILITY else "none",
            accessory=rng.choice(list(ACCESSORIES)[1:]) if rng.random() < ACCESSORY_PROBABILITY else "none",
        )

    def describe(self) -> str:
        """Describe the identity, for example ``with tan skin, a ginger afro and round glasses``."""
        parts = [
            f"{self.skin} skin",
            HEADS[self.head].format(hair=self.hair),
            BEARDS[self.beard],
            ACCESSORIES[self.accessory],
        ]
        parts = [part for part in parts if part]
        return f"with {', '.join(parts[:-1])} and {parts[-1]}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Attributes that change from image to image."""

    expression: str
    clothes: str
    background: str
    flip: bool = False
    scale: float = 1.0
    shift_x: float = 0.0
    """Horizontal shift in percent of the image's width."""
    shift_y: float = 0.0
    """Vertical shift in percent of the image's height."""

    @classmethod
    def random(cls, rng: random.Random) -> "Scene":
        """Sample a scene, including scale and shift."""
        return cls(
            expression=rng.choice(list(EXPRESSIONS)),
            clothes=rng.choice(list(CLOTHES)),
            background=rng.choice(list(BACKGROUNDS)),
            flip=rng.random() < 0.5,
            scale=round(rng.uniform(*SCALE_RANGE), 3),
            shift_x=round(rng.uniform(-MAX_SHIFT_PERCENT, MAX_SHIFT_PERCENT), 2),
            shift_y=round(rng.uniform(-MAX_SHIFT_PERCENT, MAX_SHIFT_PERCENT), 2),
        )

    def caption(self, subject: str = f"a {{expression}} {DOMAIN_WORD}") -> str:
        """Describe the scene only: ``a portrait of a smiling person in a red shirt on a navy background``."""
        subject = subject.format(expression=self.expression)
        return _fix_articles(f"a portrait of {subject} in a {self.clothes} shirt on a {self.background} background")


def extra_captions(identity: Identity, scene: Scene, rng: random.Random) -> list[str]:
    """Return three further captions of an image: complete, identity only, and a random subset of attributes."""
    described = f"{DOMAIN_WORD} {identity.describe()}"
    complete = scene.caption(rng.choice((f"a {{expression}} {described}", f"a {described} {{expression}}")))
    subject = rng.choice((DOMAIN_WORD, described))
    article = rng.choice(("a ", "a ", ""))
    expression = rng.choice(
        (f"{article}{scene.expression} {subject}", f"{article}{subject} {scene.expression}", f"{article}{subject}")
    )
    clothes = rng.choice((f" in a {scene.clothes} shirt", ""))
    background = rng.choice((f" on a {scene.background} background", ""))
    partial_caption = f"a portrait of {expression}{clothes}{background}"
    return [complete, _fix_articles(f"a portrait of a {described}"), _fix_articles(partial_caption)]


def _fix_articles(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


@cache
def _open_peeps_style() -> Style:
    return Style(json.loads(files("dicebear_styles").joinpath("open-peeps.json").read_text("utf-8")))


def render(identity: Identity, scene: Scene, size: int = 64) -> Image.Image:
    """Render the identity in the scene as an RGB image of ``size`` x ``size`` pixels."""
    ink, fill = HAIR[identity.hair]
    options = {
        "size": size,
        "headVariant": [identity.head],
        "expressionVariant": [EXPRESSIONS[scene.expression]],
        "facialHairVariant": [identity.beard] if identity.beard != "none" else [],
        "facialHairProbability": 0 if identity.beard == "none" else 100,
        "accessoriesVariant": [identity.accessory] if identity.accessory != "none" else [],
        "accessoriesProbability": 0 if identity.accessory == "none" else 100,
        "maskProbability": 0,
        "skinColor": [SKINS[identity.skin]],
        "inkColor": [ink],
        "headContrastColor": [fill],
        "clothingColor": [CLOTHES[scene.clothes]],
        "backgroundColor": [BACKGROUNDS[scene.background]],
        "flip": ["horizontal" if scene.flip else "none"],
        "scale": scene.scale,
        "translateX": scene.shift_x,
        "translateY": scene.shift_y,
    }
    svg = Avatar(_open_peeps_style(), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class FacesConfig:
    """Configuration of ``e4t demo faces``."""

    output: str = "data/faces"
    """Output folder. Each image <identity>/<number>.png gets a .txt (the scene) and a .captions.txt (one further
    caption per line)."""
    num_identities: int = 4000
    """Number of different people."""
    images_per_identity: int = 6
    """Number of images of each person, each in a random scene."""
    size: int = 64
    """Width and height of the images in pixels."""
    seed: int = 0
    """Seed of all random choices; the same seed gives the same images."""

    def __post_init__(self) -> None:
        if self.num_identities < 1 or self.images_per_identity < 1 or self.size < 8:
            raise ConfigError(
                f"faces: {self.num_identities} identities, {self.images_per_identity} images per identity, "
                f"size {self.size}; give at least 1, 1 and 8"
            )
        if self.num_identities > 200_000:
            raise ConfigError(
                f"faces: {self.num_identities} identities; only about 290,000 different ones exist, give at "
                "most 200,000"
            )


def sample_identities(config: FacesConfig) -> list[Identity]:
    """Sample distinct identities. They depend on the seed only; a larger number extends the list."""
    rng = random.Random(f"identities-{config.seed}")
    people: dict[str, Identity] = {}
    while len(people) < config.num_identities:
        person = Identity.random(rng)
        people.setdefault(person.name, person)
    return list(people.values())


def generate_faces(config: FacesConfig, *, workers: int = 2, on_progress: ProgressCallback | None = None) -> Path:
    """Render the dataset atomically (the folder is renamed when complete); a complete one is left unchanged.

    Raises ConfigError if the folder holds a dataset of another configuration, or anything else.
    """
    output = Path(config.output)
    if (output / CONFIG_NAME).exists():
        recorded = json.loads((output / CONFIG_NAME).read_text())
        if {_OLD_KEYS.get(key, key): value for key, value in recorded.items()} != asdict(config):
            raise ConfigError(
                f"{output} holds faces of another configuration (see its {CONFIG_NAME}); give another --output or "
                "delete it"
            )
        return output
    if output.exists():
        raise ConfigError(
            f"{output} exists and was not created by `e4t demo faces`; give another --output or delete it"
        )
    people = sample_identities(config)
    with atomic_dir(output) as folder:

        def on_poll() -> None:
            if on_progress:
                on_progress(sum(1 for _ in folder.iterdir()), len(people))

        run_processes(_render_identities, [(folder, config, people[rank::workers]) for rank in range(workers)], on_poll)
        (folder / CONFIG_NAME).write_text(json.dumps(asdict(config), indent=2))
    return output


def _render_identities(output: Path, config: FacesConfig, people: Sequence[Identity]) -> None:
    for person in people:
        _render_identity(output, config, person)


def _render_identity(output: Path, config: FacesConfig, identity: Identity) -> None:
    folder = output / identity.name
    folder.mkdir()
    rng = random.Random(hashlib.sha256(f"{config.seed}-{identity.name}".encode()).digest())
    for index in range(config.images_per_identity):
        scene = Scene.random(rng)
        render(identity, scene, config.size).save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(scene.caption() + "\n")
        (folder / f"{index:03d}.captions.txt").write_text("\n".join(extra_captions(identity, scene, rng)) + "\n")
