"""Items without a modality take another item's path, and give way to it."""

import numpy as np
import torch

from tessera.codes.absent import lend_paths
from tessera.codes.collisions import Paths, resolve
from tessera.kmeans import gaps

CODEBOOKS = np.zeros((2, 4, 1), np.float32)


def paths(codes):
    codes = np.array(codes)
    return Paths(codes, codes[:, :1].astype(np.float32), CODEBOOKS)


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_by_hand():
    """Item 1 has no image and a text like item 2's; item 3 has neither, and keeps the path of the mean."""
    vectors = {"text": rows([0.0], [5.0], [4.0], [1.0]), "image": rows([0.0], [0.0], [9.0], [0.0])}
    present = {"text": np.array([True, True, True, False]), "image": np.array([True, False, True, False])}
    lent = lend_paths({m: paths([[0, 0], [1, 1], [2, 2], [3, 3]]) for m in vectors}, vectors, present)
    assert lent["text"].codes.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert lent["image"].codes.tolist() == [[0, 0], [2, 2], [2, 2], [3, 3]]
    assert lent["image"].residuals.tolist() == [[0], [2], [2], [3]]


def test_the_first_other_modality_that_an_item_has_decides():
    vectors = {name: rows([0.0], [1.0], [2.0]) for name in ("sound", "text")} | {"image": rows([0.0], [0.0], [0.0])}
    present = {"sound": np.array([True, True, False]), "text": np.array([True, True, True])}
    present["image"] = np.array([True, False, False])
    vectors["text"][1] = 9
    lent = lend_paths({"image": paths([[0, 0], [1, 1], [2, 2]])}, vectors, present)
    assert lent["image"].codes.tolist() == [[0, 0], [0, 0], [0, 0]]


def test_what_is_near_does_not_hang_on_where_the_vectors_lie():
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 8, generator=draw).repeat_interleave(10, 0)
    vectors = {"text": centres + torch.randn(200, 8, generator=draw) / 10, "image": torch.zeros(200, 3)}
    present = {"text": np.full(200, True), "image": np.arange(200) % 10 > 2}
    own = {"image": paths(np.arange(400).reshape(200, 2))}
    here = lend_paths(own, vectors, present)["image"].codes
    far = lend_paths(own, vectors | {"text": vectors["text"] + 1000}, present)["image"].codes
    assert (here == far).all(1).mean() > 0.98


def test_blocks_do_not_change_who_lends(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    vectors = {"text": torch.randn(200, 5, generator=draw), "image": torch.zeros(200, 3)}
    vectors["text"][150:] = vectors["text"][100:150]  # of equals the first lends
    present = {"text": np.full(200, True), "image": np.arange(200) >= 60}
    own = {"image": paths(np.arange(400).reshape(200, 2))}
    whole = lend_paths(own, vectors, present)["image"]
    monkeypatch.setattr("tessera.codes.absent.rows_in_block", lambda _: 7)
    assert np.array_equal(lend_paths(own, vectors, present)["image"].codes, whole.codes)
    nearest = 60 + torch.cdist(vectors["text"][:60], vectors["text"][60:]).argmin(1)
    assert np.array_equal(whole.codes[:60], own["image"].codes[nearest])


def test_no_block_of_vectors_or_distances_is_larger_than_a_block(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    vectors = {"text": torch.randn(300, 2, generator=draw), "image": torch.zeros(300, 2)}
    present = {"text": np.full(300, True), "image": np.arange(300) >= 100}
    sizes = []

    def watched(points, centres):
        sizes.append(max(points.numel(), centres.numel(), len(points) * len(centres)))
        return gaps(points, centres)

    monkeypatch.setattr("tessera.codes.absent.gaps", watched)
    for block in (2**24, 100):
        monkeypatch.setattr("tessera.codes.rows.BLOCK", block)
        monkeypatch.setattr("tessera.codes.absent.BLOCK", block)
        lend_paths({"image": paths(np.zeros((300, 2)))}, vectors, present)
        assert max(sizes) <= block
        sizes.clear()


def test_nothing_is_lent_where_all_are_there_or_nobody_can_lend():
    vectors = {"text": rows([0.0], [1.0]), "image": rows([0.0], [1.0])}
    everyone, nobody = np.array([True, True]), np.array([False, False])
    own = {"image": paths([[0, 1], [2, 3]])}
    for there in (everyone, nobody):
        lent = lend_paths(own, vectors, {"text": everyone, "image": there})
        assert lent["image"].codes.tolist() == [[0, 1], [2, 3]]


def test_lenders_keep_their_codes_whatever_their_place():
    same = paths([[1, 2], [1, 2], [1, 2]])
    present = np.array([False, True, False])
    for rule in ("reassign", "extra_code"):
        codes = resolve(same, rule=rule, names=list("abc"), present=present)
        assert len({tuple(code) for code in codes.tolist()}) == 3
        assert codes[1, :2].tolist() == [1, 2]
        assert codes[1, 2:].tolist() in ([], [0])


def test_who_only_borrows_a_path_takes_no_code_that_another_wants():
    """All three have code 0; of the others 0.9 is nearer than -0.95. Alone, the second takes 0.9, whoever borrows."""
    codebooks = np.float32([[[0], [0.9], [-0.95]]])
    residuals = np.float32([[0.1], [0.2], [0.1]])
    three = Paths(np.zeros((3, 1), np.int64), residuals, codebooks)
    present = np.array([True, True, False])
    assert resolve(three, rule="reassign", names=list("abc"), present=present).tolist() == [[0], [1], [2]]
    nearer = Paths(three.codes[1:], residuals[1:], codebooks)
    assert resolve(nearer, rule="reassign", names=list("bc"), present=present[1:]).tolist() == [[0], [1]]


def test_the_others_have_the_ids_that_they_would_have_alone():
    generator = np.random.default_rng(0)
    codes, residuals = generator.integers(0, 4, (120, 3)), generator.normal(size=(120, 2)).astype(np.float32)
    everyone = Paths(codes, residuals, generator.normal(size=(3, 8, 2)).astype(np.float32))
    called = [str(item) for item in range(120)]
    for lacking, fixed in ((generator.random(120) < 0.4, 0), (np.ones(120, np.bool_), 0), (np.arange(120) > 80, 1)):
        there = ~lacking
        alone = resolve(
            everyone._replace(codes=codes[there], residuals=residuals[there]),
            rule="reassign",
            names=called,
            fixed=fixed,
        )
        found = resolve(everyone, rule="reassign", names=called, present=there, fixed=fixed)
        assert np.array_equal(found[there], alone)
        assert len(np.unique(found, axis=0)) == 120


def test_a_catalogue_of_which_a_third_lacks_pictures_gets_ids():
    """Of 3,000 items 1,100 share the mean's path: more than the 1,024 IDs that the last two levels of 32 codes have."""
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 32, (3000, 4))
    lacking = np.arange(3000) < 1100
    codes[lacking] = 7
    path = Paths(codes, generator.normal(size=(3000, 2)).astype(np.float32), generator.normal(size=(4, 32, 2)))
    vectors = {"text": torch.tensor(generator.normal(size=(3000, 5))).float(), "image": torch.zeros(3000, 5)}
    present = {"text": np.full(3000, True), "image": ~lacking}
    lent = lend_paths({"image": path}, vectors, present)["image"]
    resolved = resolve(lent, rule="reassign", names=[str(item) for item in range(3000)], present=~lacking)
    assert len(np.unique(resolved, axis=0)) == 3000
