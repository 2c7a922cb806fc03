"""Rank items for every user: beam search over the trie of valid IDs, once a modality, and what it found scored anew."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import read_json, read_table, table_writer, write_json, write_table
from tessera.params import PARAMS_FILE, load_params
from tessera.recommender.corpus import codes_by_modality
from tessera.recommender.model import load_model
from tessera.recommender.ranking import Decoding, rank_users
from tessera.recommender.vocabulary import Vocabulary
from tessera.runtime import accelerator_on, is_main_process, progress, run
from tessera.schemas import CORPUS, IDS, INTERACTIONS, RANKINGS


def main(
    vocabulary: Annotated[Path, typer.Option(help="What each token means.")],
    ids: Annotated[Path, typer.Option(help="Semantic IDs.")],
    interactions: Annotated[Path, typer.Option(help="Interactions, for what a user has seen.")],
    valid: Annotated[Path, typer.Option(help="Validation samples.")],
    test: Annotated[Path, typer.Option(help="Test samples.")],
    checkpoint: Annotated[Path, typer.Option(help="The trained T5.")],
    rankings: Annotated[Path, typer.Option(help="Where the rankings go.")],
    metrics: Annotated[Path, typer.Option(help="Where their counts go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    words = Vocabulary.from_json(read_json(vocabulary))
    if not words.modalities:
        write_nothing(rankings, metrics)
        return
    tokens = words.all_tokens(codes_by_modality(read_table(ids, IDS), words.modalities))
    seen = read_table(interactions, INTERACTIONS) if params.decode.exclude_seen else None
    decoding = Decoding(
        beams=params.decode.beams,
        batch_size=params.decode.batch_size,
        renormalise=params.decode.renormalise,
        rescoring=params.decode.rescoring,
    )
    accelerator = accelerator_on(params.device, precision="fp32")
    model = load_model(checkpoint, words, tokens).to(accelerator.device)

    counts: dict[str, dict[str, int]] = {}
    is_first = accelerator.is_main_process
    with table_writer(rankings, RANKINGS) if is_first else nullcontext(lambda _: None) as write:
        for split, corpus in (("valid", valid), ("test", test)):
            for ranked in rank_users(
                model,
                read_table(corpus, CORPUS),
                tokens,
                words,
                decoding,
                split=split,
                interactions=seen,
                accelerator=accelerator,
                progress=progress,
            ):
                write(ranked.table)
                counts.setdefault(split, {})[f"{ranked.ranking}_users"] = ranked.users
                counts[split][f"{ranked.ranking}_rows"] = ranked.table.height
    if is_first:
        write_json(metrics, counts)


def write_nothing(rankings: Path, metrics: Path) -> None:
    """Write what stands for rankings where there are no IDs to generate."""
    if is_main_process():
        write_table(rankings, pl.DataFrame(schema=RANKINGS), RANKINGS)
        write_json(metrics, {})


if __name__ == "__main__":
    run(main)
