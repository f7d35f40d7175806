import io
from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from data_prep.images.perceptual_hash import perceptual_hash
from data_prep.prepare import dedup as duplicates
from data_prep.prepare.dedup import find_duplicates

PHOTOGRAPHS = range(20)


def photograph(seed: int, side: int = 256) -> Image.Image:
    """Amplitudes that fall with the frequency as they do in photographs, and some edges."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * side
    frequency[0, 0] = np.inf
    light = np.fft.irfft2(np.fft.rfft2(random.standard_normal((side, side))) / frequency**1.3, s=(side, side))
    picture = np.repeat((128 + 40 * light / light.std())[..., None], 3, axis=2)
    for _ in range(5):
        left, top, width, height = random.integers(0, side // 2, 4)
        picture[top : top + height, left : left + width] += random.uniform(-60, 60, 3)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def distance(one: Image.Image, other: Image.Image) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: image.resize((64, 64), Image.Resampling.LANCZOS), id="smaller"),
        pytest.param(lambda image: image.resize((700, 700), Image.Resampling.BICUBIC), id="larger"),
        pytest.param(lambda image: compressed(image, 50), id="compressed"),
        pytest.param(lambda image: compressed(image.resize((100, 100)), 60), id="smaller and compressed"),
        pytest.param(lambda image: image.point(lambda value: value + 8), id="lighter"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(0.93), id="darker"),
        pytest.param(lambda image: image.convert("L"), id="grey"),
    ],
)
def test_a_changed_copy_differs_in_at_most_four_bits(change: Callable[[Image.Image], Image.Image]) -> None:
    assert max(distance(photograph(seed), change(photograph(seed))) for seed in PHOTOGRAPHS) <= 4


def test_different_pictures_are_far_apart() -> None:
    hashes = [perceptual_hash(photograph(seed)) for seed in PHOTOGRAPHS]
    assert min((one ^ other).bit_count() for at, one in enumerate(hashes) for other in hashes[:at]) > 10


def test_a_mirrored_picture_is_another() -> None:
    image = photograph(0)
    assert distance(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 10


def test_a_change_in_one_direction_only_is_structure() -> None:
    across = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    assert distance(across, across.transpose(Image.Transpose.ROTATE_90)) > 0


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (203, 17, 90)])
def test_a_flat_picture_has_no_bits_however_it_was_compressed(color: tuple[int, int, int]) -> None:
    flat = Image.new("RGB", (512, 512), color)
    assert {perceptual_hash(image) for image in (flat, compressed(flat, 90), compressed(flat, 20))} == {0}


def test_grain_on_a_flat_picture_is_no_structure() -> None:
    grain = np.random.default_rng(0).normal(128, 5, (512, 512)).astype(np.uint8)
    assert perceptual_hash(compressed(Image.fromarray(grain), 50)) == 0


def test_hashes_stay_what_they_were_when_the_first_sets_were_made() -> None:
    down, across = np.mgrid[:64, :64]
    image = Image.fromarray(((down * across + 3 * down) % 256).astype(np.uint8))
    assert f"{perceptual_hash(image):016x}" == "0400030f3f3f7f3c"


def digests(names: Sequence[str]) -> NDArray[np.uint8]:
    """Of files that are equal where the names are."""
    return np.array([list(name.encode().ljust(32)) for name in names], dtype=np.uint8).reshape(-1, 32)


def near(hashes: Sequence[int], distance: int) -> list[int]:
    """Of files that all differ."""
    found = find_duplicates(
        digests([str(place) for place in range(len(hashes))]), np.array(hashes, np.uint64), distance
    )
    return found.near.tolist()


def test_the_same_file_is_an_exact_copy_of_the_first() -> None:
    found = find_duplicates(digests(["a", "b", "a", "c", "a", "b"]), None, None)
    assert found.exact.tolist() == [-1, -1, 0, -1, 0, 1]
    assert found.near.tolist() == [-1] * 6


def test_files_that_differ_in_their_digests_last_byte_are_no_copies() -> None:
    assert find_duplicates(digests(["a" * 31 + "b", "a" * 31 + "c"]), None, None).exact.tolist() == [-1, -1]


def test_hashes_are_not_looked_at_without_a_distance() -> None:
    assert find_duplicates(digests(["a", "b"]), np.zeros(2, np.uint64), None).near.tolist() == [-1, -1]


def test_an_exact_copy_is_no_near_copy_and_its_hash_is_not_looked_at() -> None:
    found = find_duplicates(digests(["a", "a", "b"]), np.array([0, 2**40 - 1, 2**40 - 1], np.uint64), 4)
    assert found.exact.tolist() == [-1, 0, -1]
    assert found.near.tolist() == [-1, -1, -1]


def test_equal_hashes_are_near_at_distance_0_and_others_not() -> None:
    assert near([5, 7, 5, 5, 7, 6], distance=0) == [-1, -1, 0, 0, 1, -1]


def test_a_chain_of_small_steps_keeps_every_picture_that_is_far_from_those_before_it() -> None:
    assert near([0b0, 0b1, 0b11, 0b111, 0b1111], distance=1) == [-1, 0, -1, 2, -1]


def test_a_copy_of_two_is_told_as_the_firsts() -> None:
    assert near([0b0011, 0b1100, 0b0000], distance=2) == [-1, -1, 0]


def test_a_set_without_pictures_has_no_copies() -> None:
    assert near([], distance=4) == []


@st.composite
def clusters(draw: st.DrawFn) -> list[int]:
    """Hashes with few and many bits between them, some equal."""
    centers = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
    flips = st.lists(st.integers(0, 63), max_size=6)
    hashes = []
    for center, places in draw(st.lists(st.tuples(st.sampled_from(centers), flips), max_size=40)):
        hashes.append(center ^ sum(1 << place for place in set(places)))
    return hashes


def one_after_another(hashes: Sequence[int], distance: int) -> list[int]:
    """What the docstring says, word by word."""
    found: list[int] = []
    for one in hashes:
        kept = (place for place, original in enumerate(found) if original < 0)
        found.append(next((place for place in kept if (hashes[place] ^ one).bit_count() <= distance), -1))
    return found


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({}, id="compared directly"),
        pytest.param({"_COMPARE_NS": 1e9, "_COMPARE_SORTED_NS": 0}, id="sorted by one band"),
        pytest.param({"_COMPARE_NS": 1e9, "_SORT_NS": 0}, id="sorted by several bands"),
        pytest.param({"_COMPARE_NS": 1e9, "_MAX_BUCKET": 1}, id="every run a long one"),
        pytest.param({"_MAX_PAIRS": 1}, id="more pairs than can be held"),
        pytest.param({"_CHUNK": 7}, id="in small blocks"),
    ],
)
@given(hashes=clusters(), distance=st.integers(0, 6))
def test_copies_are_those_of_a_plain_loop(limits: dict[str, float], hashes: list[int], distance: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(duplicates, name, value)
        assert near(hashes, distance) == one_after_another(hashes, distance)


@given(hashes=clusters(), distance=st.integers(0, 8), random=st.randoms())
def test_pictures_that_no_chain_links_can_change_places(hashes: list[int], distance: int, random: Random) -> None:
    def kept(order: list[int]) -> set[int]:
        found = near([hashes[place] for place in order], distance)
        return {place for place, original in zip(order, found, strict=True) if original < 0}

    order = list(range(len(hashes)))
    shuffled = order.copy()
    random.shuffle(shuffled)
    chains = linked(hashes, distance)
    # Each chain's pictures keep their order, at the places that the shuffle gave to the chain.
    waiting = {chain: [place for place in order if chains[place] == chain] for chain in set(chains)}
    assert kept([waiting[chains[place]].pop(0) for place in shuffled]) == kept(order)


def linked(hashes: Sequence[int], distance: int) -> list[int]:
    """For each hash the number of its chain."""
    chains = list(range(len(hashes)))
    for at, one in enumerate(hashes):
        for place, other in enumerate(hashes[:at]):
            if (one ^ other).bit_count() <= distance:
                chains = [chains[at] if chain == chains[place] else chain for chain in chains]
    return chains


def test_many_hashes_are_searched_like_few() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 20_000, dtype=np.uint64)
    hashes[10_000:] = hashes[:10_000] ^ np.uint64(0b1001001)
    expected = [-1] * 10_000 + list(range(10_000))
    assert near(hashes.tolist(), distance=4) == expected


def test_a_crowd_of_near_hashes_needs_no_room_for_all_its_pairs() -> None:
    random = np.random.default_rng(0)
    hashes = sorted(set(random.integers(0, 2**12, 3_000).tolist()), key=lambda one: (one * 7919) % 4096)
    kept = [one for one, original in zip(hashes, near(hashes, distance=4), strict=True) if original < 0]
    assert all((one ^ other).bit_count() > 4 for one, other in combinations(kept, 2))
