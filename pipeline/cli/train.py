"""`train`: train a model on the spectra of runs."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import Verb, place_of
from pipeline.errors import ConfigError, ExitStatus, RefusedError, redacted, require_place
from pipeline.signals import Terminated

if TYPE_CHECKING:
    from pipeline.training.train import Trained
    from spender_core.objective import Losses
    from spender_core.training import Settings

EPOCHS = 100

# of Settings, by the option's name where it is another
_SETTINGS = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "lr",
    "lsf_learning_rate": "lsf_lr",
    "schedule": "schedule",
    "seed": "seed",
    "clip": "clip",
    "average": "average",
    "patience": "patience",
    "freeze": "freeze",
    "bf16": "bf16",
}


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("roots", metavar="ROOT", nargs="+", help="folders of runs; those of one instrument are pooled")
    text = "checkpoint to write, a path or URL; an existing one is resumed. Log (.jsonl) and curve (.png) are beside it"
    parser.add_argument("--output", metavar="FILE", required=True, help=text)
    text = "train as published, but for the other options that are given (see the page on training)"
    parser.add_argument("--preset", choices=("paper1", "paper2"), help=text)
    parser.add_argument("--where", metavar="EXPR", help="take only targets that fulfil this condition")
    parser.add_argument("--licence", metavar="TEXT", help="licence of the model, kept in the checkpoint")
    parser.add_argument(
        "--save-every", metavar="SECONDS", type=float, default=600.0, help="save also within an epoch (default 600)"
    )
    _add_models(parser.add_argument_group("the model"))
    _add_settings(parser.add_argument_group("the optimizer"))
    _add_losses(parser.add_argument_group("the losses"))


def _add_models(group: Any) -> None:  # noqa: ANN401 - argparse names the type of its groups with an underscore
    text = "checkpoint to start from (default: random weights); it decides all other options of this group"
    group.add_argument("--start", metavar="M", help=text)
    group.add_argument("--latents", metavar="S", type=int, help="number of latents (default 8)")
    text = "restframe wavelengths in Angstrom (default: what is seen at the redshifts' 1st to 99th percentile)"
    group.add_argument("--rest-range", metavar="LOW:HIGH", type=_range, help=text)
    group.add_argument("--superres", metavar="N", type=int, help="restframe bins per observed bin (default 1)")
    text = "learn a line spread function of so many bins for each instrument, an odd number such as 5 (default: none)"
    group.add_argument("--lsf", metavar="L", type=int, help=text)
    group.add_argument("--lsf-symmetric", action="store_true", help="keep line spread functions symmetric")
    group.add_argument("--lsf-nonnegative", action="store_true", help="keep line spread functions from being negative")


def _add_settings(group: Any) -> None:  # noqa: ANN401
    text = f"passes over the spectra (default {EPOCHS}); may be raised when a run is resumed"
    group.add_argument("--epochs", metavar="N", type=int, help=text)
    group.add_argument("--batch-size", metavar="N", type=int, help="spectra per step (default 64)")
    group.add_argument("--learning-rate", metavar="X", type=float, help="peak learning rate (default 0.001)")
    text = "peak learning rate of line spread functions (default: the others')"
    group.add_argument("--lsf-learning-rate", metavar="X", type=float, help=text)
    text = "the learning rate moves in one cycle by steps (default) or epochs, or is constant"
    group.add_argument("--schedule", choices=("step", "epoch", "constant"), help=text)
    text = "seed of random weights, of the order of the spectra and of augmentation (default 0)"
    group.add_argument("--seed", metavar="N", type=int, help=text)
    group.add_argument("--clip", metavar="X", type=float, help="largest norm of the gradient (default: any)")
    text = "keep a running mean of the weights with this decay, such as 0.999 (default: the weights themselves)"
    group.add_argument("--average", metavar="X", type=float, help=text)
    text = "end after so many epochs without a better validation, with the best weights (default: do not)"
    group.add_argument("--patience", metavar="N", type=int, help=text)
    group.add_argument("--freeze", choices=("encoder", "decoder"), help="leave the encoders or the decoder as they are")
    text = "compute in bfloat16 where that is safe; for GPUs"
    group.add_argument("--bf16", action=BooleanOptionalAction, help=text)


def _add_losses(group: Any) -> None:  # noqa: ANN401
    group.add_argument("--similarity", metavar="X", type=float, help="weight of the similarity loss (default 0)")
    group.add_argument("--form", choices=("paper2", "scale_free"), help="of the similarity loss (default scale_free)")
    text = "constant slope k of the similarity loss (default 5, or as the preset anneals it)"
    group.add_argument("--slope", metavar="X", type=float, help=text)
    group.add_argument("--consistency", metavar="X", type=float, help="weight of the consistency loss (default 0)")
    text = "compare latents with those of copies moved in redshift and noised: the consistency loss, with weight 1"
    group.add_argument("--augment", action=BooleanOptionalAction, help=text)


def _range(text: str) -> tuple[float, float]:
    low, high = text.split(":")
    return float(low), float(high)


_range.__name__ = "range, such as 2500:9300"  # argparse names it in its message


def settings_of(args: Namespace) -> tuple[Settings, Losses]:
    """Return what the options say: those of the preset, or the defaults, and what was given beside. ConfigError."""
    from spender_core.objective import Losses
    from spender_core.training import Settings

    if args.preset is None:
        settings, losses = Settings(EPOCHS), Losses()
    else:
        from spender_core.presets import PRESETS

        settings, losses = PRESETS[args.preset]
    chosen = {ours: getattr(args, name) for name, ours in _SETTINGS.items() if getattr(args, name) is not None}
    try:
        settings = dataclasses.replace(settings, **chosen)
    except ValueError as error:
        key, _, rest = str(error).partition(" ")
        option = next((name for name, ours in _SETTINGS.items() if ours == key), key).replace("_", "-")
        raise RefusedError(f"--{option}", f"--{option} {rest}") from error
    return settings, _losses_of(args, losses)


def _losses_of(args: Namespace, losses: Losses) -> Losses:
    from spender_core.augment import Augmentation
    from spender_core.objective import Slope

    for key in ("similarity", "consistency", "slope"):
        value = getattr(args, key)
        if value is not None and not 0 <= value < float("inf"):
            raise ConfigError(f"--{key}", value, "0 or more")
    if args.augment is False and args.consistency:
        problem = "--no-augment leaves nothing to compare for the consistency loss"
        raise RefusedError("--no-augment", problem, "leave out one of the two")
    if not (args.similarity if args.similarity is not None else losses.similarity):
        for key in ("form", "slope"):
            if getattr(args, key) is not None:
                problem = f"--{key} is of the similarity loss, which has no weight"
                raise RefusedError(f"--{key}", problem, "give it one (--similarity 1), or leave it out")
    chosen: dict[str, Any] = {}
    for key in ("similarity", "consistency", "form"):
        if getattr(args, key) is not None:
            chosen[key] = getattr(args, key)
    if args.slope is not None:
        chosen["slope"] = Slope(value=args.slope)
    if args.augment is False:
        chosen |= {"consistency": 0.0, "augmentation": None}
    elif args.augment and args.consistency is None and not losses.consistency:
        chosen["consistency"] = 1.0
    if chosen.get("consistency", losses.consistency) and losses.augmentation is None:
        chosen["augmentation"] = Augmentation.SDSS
    return dataclasses.replace(losses, **chosen)


def _execute(args: Namespace) -> int:
    from pipeline.training.models import ModelChoice
    from pipeline.training.train import train
    from spender_core.training import Stopped

    for root in args.roots:
        require_place("ROOT", root, with_query=False)
    settings, losses = settings_of(args)
    choice = ModelChoice(
        start=args.start,
        n_latent=args.latents,
        rest_range=args.rest_range,
        superres=args.superres,
        lsf=args.lsf,
        lsf_symmetric=args.lsf_symmetric,
        lsf_nonnegative=args.lsf_nonnegative,
    )
    try:
        trained = train(
            [place_of("ROOT", root) for root in args.roots],
            args.output,
            settings,
            losses,
            model=choice,
            where=args.where,
            licence=args.licence,
            save_every=args.save_every,
            stream=sys.stderr,
        )
    except (KeyboardInterrupt, Terminated):
        _print_resume()
        raise
    except Stopped:  # a process that trains with this one was asked to, and says so
        return ExitStatus.INTERRUPTED
    if trained.is_first:
        _print_result(args, trained)
    return 0


def _print_resume() -> None:
    """Say which command goes on; a launcher's own, such as torchrun's, is not known here."""
    words = sys.argv[1:]
    if "train" in words and "RANK" not in os.environ:
        print(f"\nresume with: {redacted(shlex.join(['spender-pipeline', *words]))}", file=sys.stderr)


def _print_result(args: Namespace, trained: Trained) -> None:
    for split in ("train", "valid"):
        epochs = trained.history[split]
        losses = ", ".join(f"{name} {loss:.4g}" for name, loss in epochs[-1].items()) if epochs else ""
        print(f"{split} loss after {len(epochs)} epochs: {losses or 'no spectra'}")
    print(f"trained on a part of {sum(trained.spectra.values())} spectra, validated on the rest: {trained.output}")
    print(f"curve   {redacted(trained.output.curve)}")
    print(f"next: spender-pipeline plan {args.roots[0]} --model {redacted(args.output)}")


TRAIN = Verb("train", "train a model on the spectra of runs", _execute, _add_options, has_root=False, resumes=True)
