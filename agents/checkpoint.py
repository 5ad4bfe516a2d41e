"""A checkpoint is a folder: weights (safetensors), the network for the sidecar (ONNX), and a card (JSON).

No pickles. A folder is refused when a file was changed since its card was written, or when it was trained for
another observation than this build makes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..env.codec import observation_schema
from .blend import Portfolio, PortfolioError, portfolio_from_json

CARD: Final = "card.json"
ONNX: Final = "policy.onnx"
WEIGHTS: Final = "policy.safetensors"
SHIPPED: Final = Path(__file__).resolve().parents[1] / "checkpoints"
MAX_CARD_BYTES: Final = 4 << 20
MAX_HEADROOM: Final = 10.0
"""No cluster is ten times too small by intent."""
MAX_MISS_PRICE: Final = 1e6
"""In reference bills; a larger one is a mistake."""
MAX_NAME: Final = 100
"""Characters of a file name."""


class CheckpointError(ValueError):
    """The folder is no checkpoint, or not a whole one."""


class CheckpointMismatch(CheckpointError):
    """The checkpoint was made for another schema, or a file is not the one its card names."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were checked against its card."""

    folder: Path
    card: dict[str, Any]
    version: str = ""
    """In a registry; empty for one that lies anywhere else."""

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.card.get("name", self.folder.name))

    @property
    def policy_hash(self) -> str:
        """Short hash that stands in every decision: of a registry's version its name, else of the network that decides."""
        return self.version or str(self.card["files"][ONNX])[:16]

    @property
    def headroom(self) -> float:
        """Times what the network thinks that every class needs; cards without one: as it thinks."""
        return float(self.card.get("headroom", 1.0))

    @property
    def miss_price(self) -> float:
        """The price of a miss that the policy should act by, unless the user asks otherwise."""
        return float(self.card["miss_price"])

    @property
    def portfolio(self) -> Portfolio:
        """The rules that the network blends."""
        return portfolio_from_json(self.card["portfolio"])


def shipped_checkpoints() -> dict[str, Path]:
    """The checkpoints that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{CARD}"))}


def load_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """A shipped checkpoint by name, or any by its folder.

    Raises:
        CheckpointError: names the folder and the missing or unreadable file.
        CheckpointMismatch: names the schema, or the file, that differs.
    """
    shipped = shipped_checkpoints()
    folder = shipped.get(str(name_or_path), Path(name_or_path))
    card = _read_card(folder, shipped)
    for name, wanted in card["files"].items():
        if Path(name).name != name or "\\" in name or len(name) > MAX_NAME:
            raise CheckpointError(f"{folder}: {CARD} names {name[:MAX_NAME]!r}, wanted a plain file name in the folder")
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: {CARD} names {name!r}, which is not there; copy the whole folder")
        seen = file_hash(path)
        if seen != wanted:
            raise CheckpointMismatch(
                f"{path}: sha256 {seen[:16]}..., its card says {str(wanted)[:16]}...; the file was changed or cut"
                " short since it was written: copy it again, or train again"
            )
    if card["observation_schema"] != observation_schema():
        raise CheckpointMismatch(
            f"{folder}: trained on observation schema {card['observation_schema']}, this build observes"
            f" {observation_schema()}; train again, or install the poolpilot {card.get('poolpilot', 'version')} it"
            " was trained with"
        )
    try:
        portfolio_from_json(card.get("portfolio"))
    except PortfolioError as error:
        raise CheckpointError(f"{folder / CARD}: {error}") from None
    return Checkpoint(folder=folder, card=card)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card last, with the hashes of the other files: a half-written folder has none and is refused."""
    files = {
        path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.suffix in (".onnx", ".safetensors")
    }
    whole = {**card, "observation_schema": observation_schema(), "files": files}
    temporary = folder / (CARD + ".part")
    temporary.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / CARD)


def add_to_card(folder: Path, evaluation: dict[str, Any]) -> None:
    """Keep an evaluation on a checkpoint's card, in place of the one before."""
    card = load_checkpoint(folder).card
    write_card(folder, {**card, "evaluation": evaluation})


def file_hash(path: Path) -> str:
    """sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_card(folder: Path, shipped: dict[str, Path]) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {CARD} there and no shipped checkpoint of that name; shipped are {', '.join(shipped) or '-'}"
        )
    if path.stat().st_size > MAX_CARD_BYTES:
        raise CheckpointError(f"{path}: larger than {MAX_CARD_BYTES} bytes, wanted a small JSON card")
    try:
        card = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(card, dict):
        raise CheckpointError(f"{path}: wanted a JSON object")
    wanted = {
        "observation_schema": (str, "the schema's hash"),
        "files": (dict, "file names and their sha256"),
        "miss_price": (int | float, "a price of 0 or more"),
    }
    for field, (kind, what) in wanted.items():
        if not isinstance(card.get(field), kind) or isinstance(card[field], bool):
            raise CheckpointError(f"{path}: {field}: {repr(card.get(field))[:60]}, wanted {what}")
    headroom = card.get("headroom", 1.0)
    if not isinstance(headroom, int | float) or isinstance(headroom, bool) or not 0 < headroom <= MAX_HEADROOM:
        raise CheckpointError(
            f"{path}: headroom: {repr(headroom)[:60]}, wanted a number above 0 and up to {MAX_HEADROOM:g}"
        )
    if not 0 <= card["miss_price"] < MAX_MISS_PRICE:
        raise CheckpointError(f"{path}: miss_price: {repr(card['miss_price'])[:60]}, wanted a price of 0 or more")
    if ONNX not in card["files"]:
        raise CheckpointError(f"{path}: files: {ONNX} is missing")
    return card


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
