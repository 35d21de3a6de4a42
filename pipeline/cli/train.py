"""`train`: train a model on the spectra of runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline import storage
from pipeline.cli.arguments import Verb
from pipeline.errors import redacted, require_place


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("roots", metavar="ROOT", nargs="+", help="folders of runs, one per instrument")
    parser.add_argument(
        "--output", metavar="FILE", required=True, help="checkpoint to write; an existing one is resumed"
    )
    parser.add_argument("--start", metavar="M", help="checkpoint to start from (default: random weights)")
    parser.add_argument("--latents", metavar="S", type=int, help="number of latents of a new model (default 8)")
    parser.add_argument("--epochs", metavar="N", type=int, default=100, help="passes over the spectra (default 100)")
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="spectra per step (default 64)")
    parser.add_argument(
        "--learning-rate", metavar="X", type=float, default=1e-3, help="peak learning rate (default 0.001)"
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="seed of the random weights and the order of the spectra (default 0)",
    )


def _execute(args: Namespace) -> int:
    from pipeline.training import train as training
    from spender_core.training import Settings

    settings = Settings(args.epochs, args.batch_size, args.learning_rate, args.seed)
    for root in args.roots:
        require_place("ROOT", root, with_query=False)
    roots = [storage.absolute(root) for root in args.roots]
    n_spectra, history = training.train(roots, args.output, settings, n_latent=args.latents, start=args.start)
    for split, epochs in history.items():
        losses = ", ".join(f"{name} {loss:.4g}" for name, loss in epochs[-1].items()) if epochs else ""
        print(f"{split} loss after {len(epochs)} epochs: {losses or 'no spectra'}")
    print(f"trained on {n_spectra} spectra: {redacted(args.output)}")
    print(f"next: spender-pipeline plan {args.roots[0]} --model {args.output}")
    return 0


TRAIN = Verb("train", "train a model on the spectra of runs", _execute, _add_options, has_root=False, resumes=True)
