"""Clips of real pictures with made motion: clean to the last bit, and their flow is known exactly.

Photographs of Debian's wallpaper packages are shrunk, which removes what JPEG left. A background and a foreground then
move along smooth random homographies of their own, and each frame is sampled from them at twice its size. So a clip
has detail, sub-pixel motion, parallax and occlusion, and no codec has touched it.
"""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from multigrid_vsr.core.errors import InputError

NUM_FRAME, HEIGHT, WIDTH = 60, 288, 384
_SUPERSAMPLED = 2
_PHOTOGRAPH_HEIGHT = 1440  # a photograph is shrunk to this height, where it is higher
_LOMIRI, _MATE, _PLASMA = 'lomiri-wallpapers-16.04', 'mate-backgrounds', 'plasma-workspace-wallpapers'

Picture = tuple[str, str, str, int]  # package, file below /usr/share, licence by the package, number of clips

TRAINED = (
    (_LOMIRI, 'backgrounds/Bridge_by_Sander_Klootwijk.jpg', 'CC-BY-SA-4.0', 2),
    (_LOMIRI, 'backgrounds/Dragonfly_by_Bolly.jpg', 'CC-BY-SA-4.0', 2),
    (_LOMIRI, 'backgrounds/Picture_0B_by_freespace.jpg', 'CC-BY-4.0', 1),
    (_LOMIRI, 'backgrounds/Picture_1A_by_freespace.jpg', 'CC-BY-4.0', 1),
    (_LOMIRI, 'backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg', 'CC-BY-4.0', 2),
    (_LOMIRI, 'backgrounds/greentock_by_Peter_Nerlich.jpg', 'CC-BY-SA-4.0', 1),
    (_LOMIRI, 'backgrounds/life_by_Aitzol_Berasategi.jpg', 'CC-BY-4.0', 2),
    (_LOMIRI, 'backgrounds/seeding_by_Clements_Engelhardt.jpg', 'CC0-1.0', 2),
    (_LOMIRI, 'backgrounds/sunset_by_Aitzol_Berasategi.jpg', 'CC-BY-4.0', 2),
    ('lomiri-wallpapers-20.04', 'backgrounds/Kleiber_by_Lukas_Baubkus.jpg', 'CC-BY-SA-3.0', 2),
    (_MATE, 'backgrounds/mate/abstract/Elephants_5640x3172.jpg', 'GPL-2+', 2),
    (_MATE, 'backgrounds/mate/nature/Blinds.jpg', 'GPL-2+', 1),
    (_MATE, 'backgrounds/mate/nature/Dune.jpg', 'GPL-2+', 1),
    (_MATE, 'backgrounds/mate/nature/FreshFlower.jpg', 'GPL-2+', 1),
    (_MATE, 'backgrounds/mate/nature/Garden.jpg', 'GPL-2+', 1),
    (_MATE, 'backgrounds/mate/nature/RainDrops.jpg', 'GPL-2+', 1),
    (_MATE, 'backgrounds/mate/nature/TwoWings.jpg', 'GPL-2+', 1),
    (_MATE, 'backgrounds/mate/nature/YellowFlower.jpg', 'GPL-2+', 1),
    (_PLASMA, 'wallpapers/BytheWater/contents/images/2560x1600.jpg', 'GPL-2+', 1),
    (_PLASMA, 'wallpapers/ColdRipple/contents/images/2560x1600.jpg', 'GPL-2+', 1),
    (_PLASMA, 'wallpapers/ColorfulCups/contents/images/2560x1600.jpg', 'GPL-2+', 1),
    (_PLASMA, 'wallpapers/EveningGlow/contents/images/2560x1600.jpg', 'GPL-2+', 2),
    (_PLASMA, 'wallpapers/FallenLeaf/contents/images/2560x1600.jpg', 'GPL-2+', 1),
    (_PLASMA, 'wallpapers/Grey/contents/images/2560x1600.jpg', 'GPL-2+', 1),
    (_PLASMA, 'wallpapers/OneStandsOut/contents/images/2560x1600.jpg', 'GPL-2+', 2),
)
HELD_OUT = (
    (_LOMIRI, 'backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg', 'CC-BY-4.0', 1),
    (_LOMIRI, 'backgrounds/Wine_by_Jakkub_Mede.jpg', 'CC-BY-4.0', 1),
    (_MATE, 'backgrounds/mate/nature/GreenMeadow.jpg', 'GPL-2+', 1),
    (_MATE, 'backgrounds/mate/nature/LadyBird.jpg', 'GPL-2+', 1),
    (_PLASMA, 'wallpapers/Path/contents/images/2560x1600.jpg', 'GPL-2+', 1),
)


@dataclass(frozen=True)
class Motion:
    """Where the two layers of a clip lie in each frame.

    Attributes:
        background, foreground: (t, 3, 3) homographies from pixels of a frame to pixels of the layer's picture.
        mask: uint8 (h, w), how far the foreground's picture covers the background at its own pixels, of 255.
    """

    background: np.ndarray
    foreground: np.ndarray
    mask: np.ndarray

    def flow(self, frame: int, other: int) -> np.ndarray:
        """The exact flow from one frame to another in pixels: (HEIGHT, WIDTH, 2), x before y.

        A pixel belongs to the foreground where that covers half of it or more. Hidden pixels have their flow too.
        """
        places = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).reshape(1, -1, 2).astype(np.float64)
        flows = []
        for path in (self.background, self.foreground):
            moved = cv2.perspectiveTransform(places, np.linalg.inv(path[other]) @ path[frame])
            flows.append((moved - places).reshape(HEIGHT, WIDTH, 2))
        covered = _warp(self.mask, self.foreground[frame], 1) >= 128
        return np.where(covered[..., None], flows[1], flows[0])


def unpack(folder: Path, packages: Iterable[str]) -> None:
    """Downloads Debian packages and unpacks each into a folder of its name, unless it is there.

    Raises:
        InputError: If a package cannot be downloaded; only Debian and what descends from it can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if (folder / package).exists():
            continue
        command = ['apt-get', '-o', 'APT::Sandbox::User=root', 'download', package]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        found = sorted(folder.glob(f'{package}_*.deb'))
        if done.returncode or not found:
            raise InputError(f'{package}: must be a package that apt-get downloads. Run apt-get update first.')
        subprocess.run(['dpkg-deb', '-x', found[-1], folder / f'{package}.unfinished'], check=True)
        (folder / f'{package}.unfinished').rename(folder / package)


def clips(folder: Path, pictures: Sequence[Picture]) -> Iterator[tuple[Motion, list[np.ndarray]]]:
    """Makes the clips of some photographs; the foreground of each is the next photograph.

    Yields:
        The motion of a clip and its frames, uint8 (HEIGHT, WIDTH, 3), BGR.
    """
    for place, (package, name, _, count) in enumerate(pictures):
        next_package, next_name, *_ = pictures[(place + 1) % len(pictures)]
        background = _picture(folder / package / 'usr/share' / name)
        foreground = _picture(folder / next_package / 'usr/share' / next_name)
        for number in range(count):
            random = np.random.default_rng(zlib.crc32(f'{name}_{number}'.encode()))
            motion = Motion(
                _path(random, background.shape[:2], (0.3, 2)),
                _path(random, foreground.shape[:2], (1, 4)),
                _mask(random, foreground.shape[:2]),
            )
            yield motion, [_frame(background, foreground, motion, at) for at in range(NUM_FRAME)]


def _picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None, path
    scale = min(1, _PHOTOGRAPH_HEIGHT / image.shape[0])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _path(random: np.random.Generator, size: tuple[int, int], speeds: tuple[float, float]) -> np.ndarray:
    """A smooth random path of the frame over a picture of (h, w), its speed in pixels of a frame within bounds."""
    margin = (np.array(size[::-1]) / _SUPERSAMPLED - (WIDTH, HEIGHT)) / 2 - 24
    time = np.arange(NUM_FRAME)
    path = np.zeros((2, NUM_FRAME))
    for period, weight in ((5, 0.1), (12, 0.5), (30, 1)):
        path += weight * random.normal(size=(2, 1)) * np.sin(time / period + random.uniform(0, 6.28, (2, 1)))
    path *= random.uniform(*speeds) / np.hypot(*np.diff(path)).mean()
    path += random.uniform(-1, 1, 2)[:, None] * np.maximum(margin[:, None] - abs(path).max(1, keepdims=True), 0)
    path *= np.minimum(1, margin / abs(path).max(1))[:, None]
    angle, zoom, *tilt = (random.uniform(0.3, 1) * np.sin(time / 20 + random.uniform(0, 6.28)) for _ in range(4))
    to_middle = np.array([[1, 0, -WIDTH / 2], [0, 1, -HEIGHT / 2], [0, 0, 1]])
    found = []
    for at in time:
        turn, scale = 0.04 * angle[at], _SUPERSAMPLED * (1 + 0.04 * zoom[at])
        cos, sin = scale * np.cos(turn), scale * np.sin(turn)
        shift = np.array(size[::-1]) / 2 + _SUPERSAMPLED * path[:, at]
        moved = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0, 0, 1]])
        bent = np.array([[1, 0, 0], [0, 1, 0], [4e-5 * tilt[0][at], 4e-5 * tilt[1][at], 1]])
        found.append(moved @ bent @ to_middle)
    return np.array(found)


def _mask(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Blobs with sharp edges that cover about a quarter."""
    noise = cv2.resize(random.normal(size=(9, 12)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.where(noise > np.quantile(noise, 0.75), 255, 0).astype(np.uint8)


def _frame(background: np.ndarray, foreground: np.ndarray, motion: Motion, at: int) -> np.ndarray:
    """One frame, sampled at twice its size and averaged down."""
    below = _warp(background, motion.background[at], _SUPERSAMPLED).astype(np.float32)
    above = _warp(foreground, motion.foreground[at], _SUPERSAMPLED)
    covered = _warp(motion.mask, motion.foreground[at], _SUPERSAMPLED)[..., None] / np.float32(255)
    frame = cv2.resize(below + (above - below) * covered, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.clip(np.round(frame), 0, 255).astype(np.uint8)


def _warp(picture: np.ndarray, homography: np.ndarray, scale: int) -> np.ndarray:
    """A picture seen through a frame of ``scale`` times the size, pixel centres kept in place."""
    middle = (scale - 1) / 2
    smaller = np.array([[1 / scale, 0, -middle / scale], [0, 1 / scale, -middle / scale], [0, 0, 1]])
    flags = (cv2.INTER_LINEAR if picture.ndim == 2 else cv2.INTER_LANCZOS4) | cv2.WARP_INVERSE_MAP
    size = scale * WIDTH, scale * HEIGHT
    return cv2.warpPerspective(picture, homography @ smaller, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
