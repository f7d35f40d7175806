"""The built-in domain: drawn faces, every attribute of which is known.

Open Peeps (CC0 1.0, Pablo Stanley) as packaged in ``dicebear-styles``, composed by ``dicebear-core`` and rasterised by
``resvg``. An *identity* is what a person keeps from picture to picture; a *scene* is what changes. Any identity can be
drawn in any scene, so the true picture of every prompt edit is known.
"""

import hashlib
import io
import json
import multiprocessing
import random
import re
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import resvg_py
from dicebear import Avatar, Style
from PIL import Image

from data_prep.config import ProgressCallback
from data_prep.errors import DataError
from data_prep.storage.atomic import atomic_dir
from data_prep.synthetic.vocabulary import ACCESSORIES, BACKGROUNDS, BEARDS, CLOTHES, EXPRESSIONS, HAIR, HEADS, SKINS
from e4t import ConfigError

DOMAIN_WORD = "person"
BEARD_PROBABILITY, ACCESSORY_PROBABILITY = 0.4, 0.45
SCALE_RANGE = (0.92, 1.08)
MAX_SHIFT_PERCENT = 5.0
CONFIG_NAME = "faces.json"
"""The file that says how a set was drawn."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a person keeps: the values are keys of ``data_prep.synthetic.vocabulary``."""

    head: str
    hair: str
    skin: str
    beard: str
    accessory: str

    @property
    def name(self) -> str:
        """The folder name; ``parse`` gives the identity back. Equal people have equal names under every seed."""
        return "-".join((self.head, self.hair, self.skin, self.beard, self.accessory))

    @classmethod
    def parse(cls, name: str) -> "Identity":
        """Read an identity from its folder name. Raises DataError for a name that ``name`` does not produce."""
        parts = name.split("-")
        tables: tuple[Collection[str], ...] = (HEADS, HAIR, SKINS, BEARDS, ACCESSORIES)
        if len(parts) != len(tables) or any(part not in table for part, table in zip(parts, tables, strict=True)):
            raise DataError(f"{name!r} is not a drawn identity; expected head-hair-skin-beard-accessory")
        return cls(head=parts[0], hair=parts[1], skin=parts[2], beard=parts[3], accessory=parts[4])

    @classmethod
    def random(cls, rng: random.Random) -> "Identity":
        """Draw an identity; most people have neither beard nor glasses."""
        return cls(
            head=rng.choice(list(HEADS)),
            hair=rng.choice(list(HAIR)),
            skin=rng.choice(list(SKINS)),
            beard=rng.choice(list(BEARDS)[1:]) if rng.random() < BEARD_PROBABILITY else "none",
            accessory=rng.choice(list(ACCESSORIES)[1:]) if rng.random() < ACCESSORY_PROBABILITY else "none",
        )

    def describe(self) -> str:
        """Words for the identity: ``with tan skin, a ginger afro and round glasses``."""
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
    """What changes from picture to picture."""

    expression: str
    clothes: str
    background: str
    flip: bool = False
    scale: float = 1.0
    shift_x: float = 0.0
    """Per cent of the picture's width."""
    shift_y: float = 0.0
    """Per cent of the picture's height."""

    @classmethod
    def random(cls, rng: random.Random) -> "Scene":
        """Draw a scene, its framing included."""
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
        """The scene without the identity: ``a portrait of a smiling person in a red shirt on a navy background``."""
        subject = subject.format(expression=self.expression)
        return _fix_articles(f"a portrait of {subject} in a {self.clothes} shirt on a {self.background} background")


def extra_captions(identity: Identity, scene: Scene, rng: random.Random) -> list[str]:
    """More captions of one picture: one complete, one of the person alone, one that leaves things out."""
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
    """Draw the identity in the scene as an RGB picture of ``size`` x ``size`` pixels."""
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
    """What ``e4t faces`` draws."""

    output: str = "data/faces"
    """Folder that gets <identity>/<picture>.png with .txt (the scene) and .captions.txt (more captions, one a line)."""
    num_identities: int = 4000
    """Different people, no two alike."""
    images_per_identity: int = 6
    """Pictures of each, every one in another scene."""
    size: int = 64
    """Side in pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_identities < 1 or self.images_per_identity < 1 or self.size < 8:
            raise ConfigError(
                f"faces: {self.num_identities} identities, {self.images_per_identity} pictures, size {self.size}; "
                "give at least 1, 1 and 8"
            )
        if self.num_identities > 200_000:
            raise ConfigError(
                f"faces.identities is {self.num_identities}; about 290,000 different people exist, give at most 200,000"
            )


def sample_identities(config: FacesConfig) -> list[Identity]:
    """The set's people: distinct, a function of the seed alone; asking for more extends the list."""
    rng = random.Random(f"identities-{config.seed}")
    people: dict[str, Identity] = {}
    while len(people) < config.num_identities:
        person = Identity.random(rng)
        people.setdefault(person.name, person)
    return list(people.values())


def generate_faces(config: FacesConfig, *, workers: int = 2, on_progress: ProgressCallback | None = None) -> Path:
    """Draw the whole set; a finished one is left as it is. The folder appears by rename, when whole.

    Raises ConfigError if the folder holds a set that was drawn with another configuration.
    """
    output = Path(config.output)
    if (output / CONFIG_NAME).exists():
        if json.loads((output / CONFIG_NAME).read_text()) != asdict(config):
            raise ConfigError(
                f"{output} holds faces of another configuration (see its faces.json); give another output or delete it"
            )
        return output
    if output.exists():
        raise ConfigError(f"{output} exists and was not drawn by e4t; give another faces.output")
    people = sample_identities(config)
    context = multiprocessing.get_context("spawn")  # whoever draws may have threads, which do not survive a fork
    with atomic_dir(output) as folder, ProcessPoolExecutor(workers, context) as pool:
        for done, _ in enumerate(pool.map(partial(_render_identity, folder, config), people, chunksize=16), 1):
            if on_progress:
                on_progress(done, len(people))
        (folder / CONFIG_NAME).write_text(json.dumps(asdict(config), indent=2))
    return output


def _render_identity(output: Path, config: FacesConfig, identity: Identity) -> None:
    folder = output / identity.name
    folder.mkdir()
    rng = random.Random(hashlib.sha256(f"{config.seed}-{identity.name}".encode()).digest())
    for index in range(config.images_per_identity):
        scene = Scene.random(rng)
        render(identity, scene, config.size).save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(scene.caption() + "\n")
        (folder / f"{index:03d}.captions.txt").write_text("\n".join(extra_captions(identity, scene, rng)) + "\n")
