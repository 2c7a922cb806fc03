"""Write histories and IDs as token sequences: what the T5 reads, and what it should say."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
import typer

from tessera.artifacts import read_table, table_writer, write_json
from tessera.params import PARAMS_FILE, Params, load_params, quantised
from tessera.recommender.corpus import SPLITS, codes_by_modality, samples
from tessera.recommender.vocabulary import Vocabulary
from tessera.runtime import progress, run
from tessera.schemas import CORPUS, IDS, INTERACTIONS
from tessera.tasks import parse_tasks

if TYPE_CHECKING:
    from tessera.recommender.lists import HistoryRanker
    from tessera.recommender.teaching import Taught


def main(
    interactions: Annotated[Path, typer.Option(help="Interactions with positions and splits.")],
    ids: Annotated[Path, typer.Option(help="Semantic IDs.")],
    vocabulary: Annotated[Path, typer.Option(help="Where the vocabulary goes.")],
    train: Annotated[Path, typer.Option(help="Where the training samples go.")],
    valid: Annotated[Path, typer.Option(help="Where the validation samples go.")],
    test: Annotated[Path, typer.Option(help="Where the test samples go.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    layout = params.ids.layout
    modalities = quantised(params.modalities, layout=layout)
    tasks = parse_tasks(params.corpus.tasks, modalities, layout=layout)
    codes = codes_by_modality(read_table(ids, IDS), modalities)
    words = Vocabulary.of(tasks, codes, codebook_size=params.quant.codebook_size, layout=layout)
    table = read_table(interactions, INTERACTIONS)
    taught = taught_by(params, table) if tasks and params.corpus.teacher != "none" else None

    counts: dict[str, dict[str, int]] = {}
    with ExitStack() as all_or_none:
        writers = [all_or_none.enter_context(table_writer(path, CORPUS)) for path in (train, valid, test)]
        for split, write in zip(SPLITS, writers, strict=True):
            for task, samples_of_task in samples(
                table,
                codes,
                words,
                split=split,
                max_history=params.corpus.max_history,
                taught=taught.targets if taught and split == "train" else None,
            ):
                write(samples_of_task)
                of_split = counts.setdefault(split, {})
                of_split[str(task)] = of_split.get(str(task), 0) + samples_of_task.height
    write_json(vocabulary, words.to_json())
    write_json(metrics, {"vocabulary": words.size, **counts} | ({"teacher": taught.measures()} if taught else {}))


def taught_by(params: Params, table: pl.DataFrame) -> "Taught":
    """Return what the teacher that params name adds to the training histories."""
    # Here, since what they bring takes as long to start as all else does, and few runs have a teacher.
    from tessera.recommender.linear import SlistSettings, fit_slist
    from tessera.recommender.strengths import rank_by_strength
    from tessera.recommender.teaching import taught_targets
    from tessera.recommender.transitions import Weights, transition_matrix

    items = table["item"].n_unique()

    def fit(interactions: pl.DataFrame) -> "HistoryRanker":
        if params.corpus.teacher == "itemknn":
            weights = Weights(**params.itemknn.model_dump())
            strengths = transition_matrix(interactions, items=items, weights=weights)
            return partial(rank_by_strength, strengths, recency=weights.recency)
        settings = SlistSettings(**params.slist.model_dump())
        strengths = fit_slist(interactions, items=items, settings=settings)
        return partial(rank_by_strength, strengths, recency=settings.recency)

    return taught_targets(
        table,
        fit,
        count=params.corpus.taught,
        max_history=params.corpus.max_history,
        progress=partial(progress, title=f"targets by {params.corpus.teacher}"),
    )


if __name__ == "__main__":
    run(main)
