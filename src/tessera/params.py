"""Every parameter there is: one frozen, strict model a section of params.yaml, and how a stage reads its own.

The values stand in `conf/`, with a comment on each; here stand their types and bounds. No model has defaults: a key
that is missing, unknown or of the wrong type is an error that names it.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tessera.errors import ParamsError
from tessera.schemas import JOINT
from tessera.tasks import MOST_TOKENS, Rescoring, first_code, parse_tasks

PARAMS_FILE = Path("params.yaml")

#: What stands for a path that is not given: an empty file, so that DVC may depend on it.
UNSET = "conf/unset"

PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Within = Annotated[float, Field(gt=0, lt=1)]
Modality = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


def _rising(bounds: list[int]) -> list[int]:
    if any(low >= high for low, high in pairwise(bounds)):
        raise ValueError("expected numbers that rise")
    return bounds


Bounds = Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(_rising)]


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("expected auto, cpu, cuda or cuda:N")
    return name


Device = Annotated[str, AfterValidator(_device)]


class Section(BaseModel):
    """A section of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


SectionType = TypeVar("SectionType", bound=Section)


class DemoDataset(Section):
    """The synthetic shop that the project makes itself."""

    name: str
    format: Literal["demo"]
    users: PositiveInt
    items: PositiveInt
    seed: int
    pictures: None
    watch: str
    max_malformed: Share
    expected: None


class KnownCounts(Section):
    """What a published data set holds after the published filter."""

    users: int
    items: int
    interactions: int


class AmazonDataset(Section):
    """A category of Amazon Reviews: a reviews file, a metadata file, and pictures by URL or in a folder."""

    name: str
    format: Literal["amazon2014", "amazon2018", "amazon2023"]
    reviews: str
    metadata: str | None
    pictures: str | None
    checksums: dict[Literal["reviews", "metadata"], str]
    watch: str
    max_malformed: Share
    expected: KnownCounts | None


class FolderDataset(Section):
    """Bring your own: a folder with interactions, items and pictures."""

    name: str
    format: Literal["folder"]
    path: str
    pictures: str
    watch: str
    max_malformed: Share
    expected: KnownCounts | None


Dataset = Annotated[DemoDataset | AmazonDataset | FolderDataset, Field(discriminator="format")]


class Images(Section):
    """fetch_images."""

    workers: PositiveInt
    timeout: Positive
    retries: Annotated[int, Field(ge=0)]
    max_bytes: PositiveInt
    max_pixels: PositiveInt
    min_side: PositiveInt
    longest_side: Annotated[int, Field(ge=1, le=2000)]  # the report shows them as they are
    quality: Annotated[int, Field(ge=1, le=95)]


#: The modalities that an item can be seen to have before anything is embedded.
PRESENT: Final = {"image", "text"}


class Filter(Section):
    """filter_reviews."""

    k: PositiveInt
    required: list[Modality]
    ties: Literal["hash", "file_order", "reverse_file_order"]
    min_rating: float | None
    split: Literal["leave_one_out", "time"]
    valid_from: Within
    test_from: Within
    cold_items: BelowOne
    seed: Seed


class Impaired(Section):
    """What embed_text and embed_images take from vectors, to see what comes of it."""

    missing: BelowOne
    swapped: Share
    noise: NotNegative
    seed: Seed


class Text(Impaired):
    """embed_text."""

    encoder: Literal["tfidf", "transformers", "precomputed"]
    model: str | None
    path: str
    watch: str
    fields: Literal["together", "apart"]
    dimensions: PositiveInt
    max_tokens: PositiveInt
    batch_size: PositiveInt
    trust_remote_code: bool


class Image(Impaired):
    """embed_images."""

    encoder: Literal["descriptors", "open_clip", "timm", "rq_dino", "precomputed"]
    model: str | None
    checkpoint: str | None
    path: str
    watch: str
    dimensions: PositiveInt
    batch_size: PositiveInt


class Distill(Section):
    """distill_images."""

    backbone: str
    checkpoint: str | None
    watch: str
    size: PositiveInt
    patch: PositiveInt | None
    width: PositiveInt | None
    layers: PositiveInt | None
    heads: PositiveInt | None
    local_size: PositiveInt
    local_views: Annotated[int, Field(ge=0)]
    scale: Annotated[float, Field(gt=0, lt=1)]
    jitter: Annotated[float, Field(ge=0, lt=1)]
    hidden: PositiveInt
    bottleneck: PositiveInt
    prototypes: Annotated[int, Field(ge=2)]
    student_temperature: Positive
    teacher_temperature: Positive
    centre_momentum: Share
    momentum: Share
    lambda_rq: Positive
    epochs: PositiveInt
    batch_size: PositiveInt
    lr: Positive
    warmup: Share
    weight_decay: NotNegative
    clip_norm: Positive


class Sequence(Section):
    """embed_collaborative."""

    encoder: Literal["none", "sasrec", "bert4rec"]
    mask: Share
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    dropout: BelowOne
    epochs: PositiveInt
    batch_size: PositiveInt
    lr: Positive
    weight_decay: NotNegative
    patience: Annotated[int, Field(ge=0)]


class Pseudo(Section):
    """cluster_items."""

    clusters: PositiveInt
    initialisations: PositiveInt
    iterations: PositiveInt


class Quant(Section):
    """train_quantizer."""

    method: Literal["rqvae", "rkmeans"]
    levels: PositiveInt
    codebook_size: Annotated[int, Field(ge=2, le=65536)]
    latent_dim: PositiveInt
    hidden: list[PositiveInt]
    projection: bool
    alpha: NotNegative
    lambda_con: NotNegative
    con_start_level: Annotated[int, Field(ge=0)]
    lambda_align: NotNegative
    lambda_cf: NotNegative
    lambda_diversity: NotNegative
    diversity_clusters: PositiveInt
    temperature: Positive
    similarity: Literal["cosine", "inner"]
    initialisation: Literal["kmeans", "random"]
    replace_dead_after: Annotated[int, Field(ge=0)]
    sinkhorn_epsilon: NotNegative
    sinkhorn_iterations: PositiveInt
    epochs: PositiveInt
    batch_size: PositiveInt
    lr: Positive
    weight_decay: NotNegative


class Ids(Section):
    """resolve_collisions."""

    source: Literal["computed", "file"]
    path: str
    layout: Literal["separate", "concatenated", "marked", "fused"]
    collisions: Literal["reassign", "uniform", "extra_code", "none"]


class Corpus(Section):
    """build_corpus."""

    max_history: PositiveInt
    tasks: list[str]
    teacher: Literal["none", "itemknn", "slist"]
    taught: PositiveInt


class T5(Section):
    """train_t5."""

    d_model: PositiveInt
    d_ff: PositiveInt
    d_kv: PositiveInt
    heads: PositiveInt
    encoder_layers: PositiveInt
    decoder_layers: PositiveInt
    dropout: BelowOne
    initializer_factor: Positive
    positions: Literal["tokens", "items"]
    loss: Literal["softmax", "trie_softmax"]
    modality_masking: Share
    lambda_implicit: NotNegative
    temperature: Positive
    alignment_epochs: Annotated[int, Field(ge=0)]
    alignment_batch_size: PositiveInt
    epochs: PositiveInt
    batch_size: PositiveInt
    accumulation: PositiveInt
    lr: Positive
    warmup: Share
    weight_decay: NotNegative
    clip_norm: Positive
    precision: Literal["auto", "fp32", "bf16"]
    monitor: Literal["loss", "hr@10", "ndcg@10"]
    monitor_users: PositiveInt
    monitor_every: PositiveInt
    patience: PositiveInt


class Decode(Section):
    """rank_items, and `fusion` for evaluate."""

    beams: PositiveInt
    batch_size: PositiveInt
    renormalise: bool
    rescoring: Rescoring
    exclude_seen: bool
    fusion: Literal["mean", "mean_bonus", "best", "learned"]


class ItemKnn(Section):
    """build_corpus and rank_collaborative, for the teacher or member itemknn."""

    reach: PositiveInt
    decay: NotNegative
    reverse: NotNegative
    column_power: NotNegative
    row_power: NotNegative
    recency: NotNegative


class Slist(Section):
    """build_corpus and rank_collaborative, for the teacher or member slist."""

    alpha: Share
    regularisation: Positive
    decay: BelowOne
    recency: Share


class Als(Section):
    """rank_collaborative, for the member als."""

    factors: PositiveInt
    regularisation: Positive
    alpha: Positive
    iterations: PositiveInt


class Bpr(Section):
    """rank_collaborative, for the member bpr."""

    factors: PositiveInt
    regularisation: NotNegative
    lr: Positive
    epochs: PositiveInt


class Collaborative(Section):
    """rank_collaborative."""

    members: list[Literal["itemknn", "slist", "als", "bpr", "sasrec", "bert4rec"]]
    tokens: PositiveInt


class Eval(Section):
    """evaluate."""

    resamples: PositiveInt
    confidence: Annotated[float, Field(gt=0, lt=1)]
    frequency_bounds: Bounds
    history_bounds: Bounds


class Report(Section):
    """write_report."""

    examples: PositiveInt


class Params(Section):
    """params.yaml as a whole. The first three only name the groups of `conf/` that the values came from."""

    system: str
    encoder: str
    scale: str
    seed: Seed
    device: Device
    launcher: str
    modalities: list[Modality]
    dataset: Dataset
    images: Images
    filter: Filter
    text: Text
    image: Image
    distill: Distill
    sequence: Sequence
    pseudo: Pseudo
    quant: Quant
    ids: Ids
    corpus: Corpus
    t5: T5
    decode: Decode
    collaborative: Collaborative
    itemknn: ItemKnn
    slist: Slist
    als: Als
    bpr: Bpr
    eval: Eval
    report: Report

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        for key, names in (("modalities", self.modalities), ("collaborative.members", self.collaborative.members)):
            if len(set(names)) < len(names):
                raise ValueError(f"{key}: expected distinct names, found {names}")
        if unseen := [name for name in self.filter.required if name not in PRESENT]:
            raise ParamsError(f"filter.required: expected modalities of {sorted(PRESENT)}, found {unseen[0]!r}")
        if JOINT in self.modalities:
            raise ValueError(f"modalities: expected other names than {JOINT!r}, which stands for all of them together")
        if bool(self.modalities) != bool(self.corpus.tasks):
            raise ValueError(
                f"corpus.tasks: expected tasks if there are modalities and none if there are none, "
                f"found {self.corpus.tasks} for {self.modalities}"
            )
        if self.quant.con_start_level > self.quant.levels:
            raise ValueError(
                f"quant.con_start_level: expected at most quant.levels = {self.quant.levels}, "
                f"found {self.quant.con_start_level}"
            )
        if self.quant.lambda_con and len(self.modalities) > 1 and self.quant.con_start_level == self.quant.levels:
            raise ValueError(
                f"quant.con_start_level: expected less than quant.levels = {self.quant.levels}, found as much, where "
                f"quant.lambda_con = {self.quant.lambda_con} has no level to weigh; 0 does without it"
            )
        if self.filter.valid_from >= self.filter.test_from:
            raise ValueError(
                f"filter.valid_from: expected less than filter.test_from = {self.filter.test_from}, "
                f"found {self.filter.valid_from}"
            )
        for key, needed, value in self._needs():
            if needed and value in (None, UNSET):
                raise ValueError(f"{key}: expected a value, found nothing")
        return self

    @model_validator(mode="after")
    def _mechanisms_fit(self) -> "Params":
        if self.t5.alignment_epochs and len(own := quantised(self.modalities, layout=self.ids.layout)) == 1:
            raise ValueError(f"t5.alignment_epochs: expected 0, as {own[0]} alone has IDs")
        if self.sequence.width % self.sequence.heads:
            raise ValueError(
                f"sequence.width: expected a multiple of sequence.heads = {self.sequence.heads}, "
                f"found {self.sequence.width}"
            )
        for member in self.collaborative.members:
            if member in ("sasrec", "bert4rec") and member != self.sequence.encoder:
                raise ValueError(
                    f"sequence.encoder: expected {member}, as collaborative.members names it, "
                    f"found {self.sequence.encoder}"
                )
        if self.quant.lambda_diversity > 0 and self.quant.diversity_clusters > self.quant.codebook_size // 2:
            raise ValueError(
                f"quant.diversity_clusters: expected at most half of quant.codebook_size = {self.quant.codebook_size}, "
                f"as quant.lambda_diversity is above 0, found {self.quant.diversity_clusters}"
            )
        if self.ids.collisions == "uniform" and self.quant.sinkhorn_epsilon == 0:
            raise ValueError(
                "quant.sinkhorn_epsilon: expected a value above 0, as ids.collisions is uniform, found 0.0"
            )
        return self

    @model_validator(mode="after")
    def _fits_given_codes(self) -> "Params":
        if "image" not in self.modalities or self.image.encoder != "rq_dino":
            return self
        if self.ids.layout == "fused":
            raise ValueError(
                "ids.layout: expected separate, concatenated or marked, as image.encoder is rq_dino, which learns "
                "codes of pictures alone, found fused"
            )
        if self.quant.lambda_align > 0 and len(self.modalities) == 2:  # noqa: PLR2004
            raise ValueError(
                "quant.lambda_align: expected 0.0, as image.encoder is rq_dino, whose codes are learned before the "
                f"other modality's and lie in another space, found {self.quant.lambda_align}"
            )
        return self

    @model_validator(mode="after")
    def _tasks_and_codes_have_tokens(self) -> "Params":
        own = quantised(self.modalities, layout=self.ids.layout)
        try:
            tasks = parse_tasks(self.corpus.tasks, own, layout=self.ids.layout)
        except ParamsError as error:
            raise ValueError(str(error)) from None
        levels = self.quant.levels + (self.ids.collisions == "extra_code")
        tokens = first_code(tasks, layout=self.ids.layout) + len(own) * levels * self.quant.codebook_size
        if self.ids.source == "computed" and tokens > MOST_TOKENS:
            raise ValueError(
                f"quant.codebook_size: expected at most {MOST_TOKENS} tokens for tasks and {len(own)} modalities of "
                f"{levels} levels, found {tokens} with {self.quant.codebook_size} codes a level"
            )
        return self

    @model_validator(mode="after")
    def _losses_have_an_effect(self) -> "Params":
        if not self.modalities:
            return self
        if self.ids.layout == "fused":
            self._require_zero(
                "quant.lambda_con", "quant.lambda_align", "t5.lambda_implicit", reason="ids.layout is fused"
            )
        if self.t5.loss == "trie_softmax" and not self.decode.renormalise:
            raise ValueError(
                "decode.renormalise: expected true, as t5.loss is trie_softmax, which teaches the T5 nothing of other "
                "tokens than an ID's next ones, found false"
            )
        if self.ids.source == "file":
            return self
        if self.quant.method == "rkmeans":
            self._require_zero(
                *(f"quant.lambda_{name}" for name in ("con", "align", "cf", "diversity")),
                reason="quant.method is rkmeans, which has no losses",
            )
        if self.quant.lambda_cf and self.sequence.width != self.quant.latent_dim:
            raise ValueError(
                f"sequence.width: expected quant.latent_dim = {self.quant.latent_dim}, as quant.lambda_cf is above 0, "
                f"found {self.sequence.width}"
            )
        return self

    def _require_zero(self, *keys: str, reason: str) -> None:
        for key in keys:
            section, name = key.split(".")
            if found := getattr(getattr(self, section), name):
                raise ValueError(f"{key}: expected 0.0, as {reason}, found {found}")

    def _needs(self) -> list[tuple[str, bool, str | None]]:
        """Return what is needed beside some other value: its key, whether it is needed here, and what it is."""
        text = self.text.encoder if "text" in self.modalities else None
        image = self.image.encoder if "image" in self.modalities else None
        takers = "collaborative" in self.modalities or self.quant.lambda_cf > 0
        sequence = None if self.sequence.encoder == "none" else self.sequence.encoder
        path = self.dataset.path if isinstance(self.dataset, FolderDataset) else None
        return [
            ("dataset.path, the folder", self.dataset.format == "folder", path),
            ("text.path, as text.encoder is precomputed", text == "precomputed", self.text.path),
            ("text.model, as text.encoder is transformers", text == "transformers", self.text.model),
            ("image.path, as image.encoder is precomputed", image == "precomputed", self.image.path),
            (f"image.model, as image.encoder is {image}", image in ("open_clip", "timm"), self.image.model),
            ("image.checkpoint, as image.encoder is timm", image == "timm", self.image.checkpoint),
            ("sequence.encoder, as there are to be collaborative vectors", takers, sequence),
            ("ids.path, as ids.source is file", self.ids.source == "file", self.ids.path),
        ]


def quantised(modalities: list[str], *, layout: str) -> list[str]:
    """Return the names of what has codes of its own: each of modalities, or all of them fused into one."""
    return [JOINT] if layout == "fused" and modalities else modalities


def load_params(path: Path) -> Params:
    """Return the parameters at path.

    The whole file is checked, so that a value that cannot be stops the first stage and not the last.

    Raises ParamsError naming the key, what was expected and what was found.
    """
    return load_section(path, Params)


def load_section(path: Path, section: type[SectionType]) -> SectionType:
    """Return the YAML file at path as a section; raise ParamsError as load_params does."""
    try:
        return parsed_section(path.read_text(), section, source=path)
    except FileNotFoundError:
        raise ParamsError(f"{path}: expected a file, found nothing") from None
    except OSError as error:
        raise ParamsError(f"{path}: expected a file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: expected YAML: {error}") from error


def parsed_section(text: str, section: type[SectionType], *, source: Path) -> SectionType:
    """Return text, which is YAML 1.2 and came from source, as a section; raise ParamsError as load_params does."""
    try:
        document = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ParamsError(f"{source}: expected YAML: {error}") from error
    return checked_section(document, section, source=source)


def checked_section(document: object, section: type[SectionType], *, source: Path) -> SectionType:
    """Return document, what YAML holds that came from source, as a section; raise ParamsError as load_params does."""
    try:
        return section.model_validate(document)
    except ValidationError as error:
        raise ParamsError("\n".join(_explained(source, problem) for problem in error.errors())) from None


def _explained(path: Path, problem: ErrorDetails) -> str:
    keys = [str(key) for key in problem["loc"]]
    if keys[:1] == ["dataset"] and len(keys) > 1:
        del keys[1]  # pydantic puts the chosen format there
    where = f"{path}: {'.'.join(keys)}" if keys else str(path)
    found = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"{where}: expected no such key, found {found!r}"
        case "missing":
            return f"{where}: expected a value, found nothing"
        case "value_error":
            expectation = problem["msg"].removeprefix("Value error, ")
            return f"{where}: {expectation}, found {found!r}" if keys else f"{where}: {expectation}"
        case _:
            return f"{where}: {_expectation(problem)}, found {found!r}"


def _expectation(problem: ErrorDetails) -> str:
    kinds = {"float_type": "a float", "int_type": "an integer", "bool_type": "true or false", "string_type": "text"}
    if problem["type"] in kinds:
        return f"expected {kinds[problem['type']]}"
    return problem["msg"][0].lower() + problem["msg"][1:]
