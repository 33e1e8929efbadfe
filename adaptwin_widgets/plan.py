"""RankPlan: which rank each twin keeps, as a thing one can save, read, change and price."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import WhisperConfig

from adaptwin_widgets.anatomy import Shape, full_rank, heads_of, twins_of
from adaptwin_widgets.cost import Cost, cost, reductions
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.prices import PARAMETERS, Prices
from adaptwin_widgets.vocabulary import Vocabulary

if TYPE_CHECKING:
    from adaptwin_widgets.sensitivity import Sensitivity
    from adaptwin_widgets.spectra import Spectra

FORMAT = 1
ADAPTWIN = "AdaPTwin, reconstructed"  # the method of a plan whose twins are cut by their weights alone


@dataclass
class RankPlan:
    """The rank every twin keeps, and the model it belongs to.

    ranks: ``{"encoder.0.query_key": [rank of head 0, ...], "encoder.0.feed_forward": [neurons], ...}``; a twin
    that is not named is left as it is in the original. embedding: the rank of the token embedding, None to leave it
    whole. vocabulary: the tokens that are kept, None for all (`choose_vocabulary`). locked: twins an allocation may
    not touch. method: how the ranks were chosen, in words. source, shape: the model.

    >>> plan = RankPlan.full(WhisperConfig(encoder_layers=1, decoder_layers=0))
    >>> plan.ranks["encoder.0.query_key"]
    [64, 64, 64, 64, 64, 64]
    """

    ranks: dict[str, list[int]]
    shape: dict[str, int]
    source: str = ""
    locked: tuple[str, ...] = ()
    method: str = ""
    budget: dict[str, float] = field(default_factory=dict)
    embedding: int | None = None
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        _validate(self)

    @classmethod
    def full(cls, config: WhisperConfig | Shape, source: str = "") -> RankPlan:
        """The plan that removes nothing."""
        ranks = {str(t): [full_rank(config, t)] * heads_of(config, t) for t in twins_of(config)}
        return cls(ranks, shape_of(config), source, method="full rank")

    @classmethod
    def for_budget(
        cls,
        spectra: Spectra,
        *,
        encoder: float | None = None,
        decoder: float | None = None,
        model: float | None = None,
        tau: float | None = None,
        sensitivity: Sensitivity | None = None,
        locked: Iterable[str] = (),
        even: bool = False,
        fewer_heads: int = 0,
        embedding: int | None = None,
        vocabulary: Vocabulary | None = None,
        prices: Prices = PARAMETERS,
    ) -> RankPlan:
        """Choose every rank at once by one global sort of what each component is worth a parameter.

        encoder, decoder, model: the fraction of all parameters of that part to *remove* (the decoder without the
        token embedding, the model with it); encoder and decoder may be given together. tau: instead of a
        fraction, the worth a parameter below which a component goes. sensitivity: measured damage; without it,
        worth is read off the energies. locked: twins to keep as they are, "cross.2.query_key" or a prefix "cross".
        even: all heads of an attention layer keep the same rank in both its twins, a multiple of 8, and neurons go by
        16, for speed: some runtimes know one head dimension a layer (CTranslate2, ONNX; other plans run there at the
        layer's largest rank), and vector units like round numbers. Up to one such step more than asked is removed.
        fewer_heads: of an even plan, so many heads of every layer of the encoder, those with the weakest values, go as
        a whole (their ranks are 0), and take no time any more in any runtime; `Recipe.plan` measures how many.
        embedding, vocabulary: the embedding's rank and the tokens kept; what they save counts towards `model` first,
        and the twins supply the rest. prices: what else the fractions are of, and worth is set against:
        `MULTIPLY_ADDS`, or times that `measure_times` found on this machine.

        >>> import adaptwin_widgets as aw                                              # doctest: +SKIP
        >>> twins = aw.spectra(aw.load("tiny.en"))                                     # doctest: +SKIP
        >>> aw.RankPlan.for_budget(twins, encoder=0.3).reductions["encoder_reduction"]  # doctest: +SKIP
        0.3000...

        Raises InputError for a budget that cannot be met, saying how far it can go.
        """
        from adaptwin_widgets.allocate import allocate

        return allocate(
            spectra,
            encoder=encoder,
            decoder=decoder,
            model=model,
            tau=tau,
            sensitivity=sensitivity,
            locked=locked,
            even=even,
            fewer_heads=fewer_heads,
            embedding=embedding,
            vocabulary=vocabulary,
            prices=prices,
        )

    @property
    def config(self) -> Shape:
        """The original's shape, as a configuration."""
        return Shape(**{field.name: self.shape[field.name] for field in fields(Shape)})

    @property
    def before(self) -> Cost:
        """Cost of the original."""
        return cost(self.config)

    @property
    def after(self) -> Cost:
        """Cost of the compressed model, exact to the last parameter."""
        config = self.config
        if self.vocabulary is not None:
            config = replace(config, vocab_size=len(self.vocabulary))
        return cost(config, self.ranks, embedding=self.embedding)

    @property
    def reductions(self) -> dict[str, float | int]:
        """Parameters before and after and the fraction removed of encoder, decoder and model."""
        return reductions(self.before, self.after)

    def __str__(self) -> str:
        """What it removes, in words.

        >>> print(RankPlan({}, shape_of(WhisperConfig())))
        37.76 M to 37.76 M parameters (encoder −0.0%, decoder −0.0%, model −0.0%)
        """
        r = self.reductions
        parts = (f"{part} −{r[f'{part}_reduction']:.1%}" for part in ("encoder", "decoder", "model"))
        size = f"{r['parameters_before'] / 1e6:.2f} M to {r['parameters_after'] / 1e6:.2f} M parameters"
        return f"{size} ({', '.join(parts)})"

    def within(self, ranks: Mapping[str, list[int]]) -> RankPlan:
        """The same plan for a model that has only these ranks left: no twin keeps more than it has.

        >>> plan = RankPlan({}, shape_of(WhisperConfig()))
        >>> plan.within({"encoder.0.feed_forward": [700]}).ranks
        {'encoder.0.feed_forward': [700]}
        """
        if not ranks:
            return self
        least = {
            str(twin): [min(pair) for pair in zip(self.ranks.get(str(twin), left), left, strict=True)]
            for twin in twins_of(self.config)
            if (left := ranks.get(str(twin)))
        }
        return replace(self, ranks={**self.ranks, **least})

    def check(self, config: WhisperConfig | Shape, source: str = "this model") -> None:
        """Raise InputError when the plan was made for a model of another shape."""
        other = shape_of(config)
        for name, value in self.shape.items():
            if other[name] != value:
                raise InputError(
                    f"The plan was made for {self.source or 'another model'} ({name} {value}), "
                    f"but {source} has {name} {other[name]}; make a plan for {source}."
                )

    def to_dict(self) -> dict:
        """The plan as JSON types."""
        embedding = {} if self.embedding is None else {"embedding": self.embedding}
        words = {} if self.vocabulary is None else {"vocabulary": self.vocabulary.to_dict()}
        return {
            "format": FORMAT,
            "source": self.source,
            "shape": self.shape,
            "method": self.method,
            "budget": self.budget,
            "locked": list(self.locked),
            "ranks": self.ranks,
            **embedding,
            **words,
        }

    @classmethod
    def from_dict(cls, data: Mapping, where: str = "The plan") -> RankPlan:
        """Read what `to_dict` gave; raises InputError naming the entry that is wrong."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise InputError(f"{where}: not a rank plan of format {FORMAT}; make one with `adaptwin plan`.")
        try:
            if not isinstance(data["ranks"], Mapping) or not isinstance(data["shape"], Mapping):
                raise TypeError("ranks and shape are objects")
            words = data.get("vocabulary")
            return cls(
                dict(data["ranks"]), dict(data["shape"]), str(data.get("source", "")),
                tuple(data.get("locked", ())), str(data.get("method", "")), dict(data.get("budget", {})),
                data.get("embedding"), None if words is None else Vocabulary.from_dict(words),
            )  # fmt: skip
        except KeyError as error:
            raise InputError(f"{where}: no {error.args[0]!r} in it; make a new plan with `adaptwin plan`.") from error
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except (TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{where}: an entry has the wrong type ({error}); make a new one.") from error

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, under a temporary name first."""
        write_atomically(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RankPlan:
        """Read a plan; raises InputError naming the file and what is wrong with it."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: the plan cannot be read ({error.strerror}); check the path.") from error
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON ({error}); make a new plan with `adaptwin plan`.") from error
        return cls.from_dict(data, str(path))


def shape_of(config: WhisperConfig | Shape) -> dict[str, int]:
    """The numbers that decide what a plan can say about a model."""
    return asdict(Shape.of(config))


def _validate(plan: RankPlan) -> None:
    if missing := [f.name for f in fields(Shape) if not isinstance(plan.shape.get(f.name), int)]:
        raise InputError(f"shape.{missing[0]} is missing or no whole number; make a new plan for the model.")
    config = plan.config
    known = {str(twin): twin for twin in twins_of(config)}
    for key, ranks in plan.ranks.items():
        if key not in known:
            raise InputError(f"ranks.{key} is no twin of this model; the twins are named like encoder.0.query_key.")
        twin = known[key]
        heads, full = heads_of(config, twin), full_rank(config, twin)
        if not isinstance(ranks, list) or len(ranks) != heads:
            raise InputError(f"ranks.{key} has to be a list of {heads} whole numbers, one a head.")
        least = int(twin.part == "stem")  # without a channel between them two convolutions are none
        for rank in ranks:
            if isinstance(rank, bool) or not isinstance(rank, int) or not least <= rank <= full:
                raise InputError(f"ranks.{key} holds {rank!r}; a rank is a whole number from {least} to {full}.")
    own, width = plan.embedding, config.d_model
    if own is not None and (isinstance(own, bool) or not isinstance(own, int) or not 1 <= own <= width):
        raise InputError(f"embedding is {own!r}; the embedding's rank is a whole number from 1 to {width}.")
    if plan.vocabulary is not None:
        plan.vocabulary.check(config.vocab_size)
    if unknown := [lock for lock in plan.locked if not any(matches(key, lock) for key in known)]:
        raise InputError(f"locked names {unknown[0]!r}, which is no twin of this model.")


def matches(key: str, lock: str) -> bool:
    """Whether a lock, a twin's address or the beginning of one, names this twin.

    >>> matches("cross.2.query_key", "cross"), matches("cross.2.query_key", "cross.1")
    (True, False)
    """
    return key == lock or key.startswith(lock + ".")
