"""The commands as a user types them, those of the docs among them."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from tessera.using.histories import read_histories
from tessera.using.recommender import RECOMMENDATIONS, Recommender
from tests.command_line import typed
from tests.documents import PAGES, commands_of, uses_a_model
from tests.recommended import histories
from tests.using.conftest import HOSTILE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tessera(run, monkeypatch, capsys):
    """Run the command line in the folder of the run; return its exit status, and what it printed and complained of."""

    def call(*arguments, inside=run):
        monkeypatch.chdir(inside)
        monkeypatch.setattr("tessera.using.commands.out", Console(width=160, highlight=False, emoji=False))
        return typed(monkeypatch, capsys, *arguments)

    return call


@pytest.fixture
def keys(recommender):
    return recommender.shop.items["key"].to_list()


def rows(printed):
    return [line.split() for line in printed.splitlines()[1:]]


def test_a_history(tessera, recommender, keys):
    status, printed, _ = tessera("recommend", "--history", f"{keys[0]}, {keys[4]}", "--k", 4)
    assert not status
    expected = recommender.recommend([keys[0], keys[4]], k=4)
    assert [row[:2] for row in rows(printed)] == [[str(each.rank), each.key] for each in expected]
    for each, line in zip(expected, printed.splitlines()[1:], strict=True):
        assert each.title in line
        assert f"{each.score:.4f}" in line
        assert all(f"{name} {rank}" in line for name, rank in each.found_by.items())


def test_an_empty_history(tessera):
    status, printed, _ = tessera("recommend", "--history", "", "--k", 2)
    assert not status
    assert printed.count("popularity") == 2


def test_a_user_with_all_of_its_items(tessera, run, recommender):
    user = pl.read_parquet(run / "data/filter_reviews/users.parquet")["key"][3]
    interactions = pl.read_parquet(run / "data/filter_reviews/interactions.parquet").sort("position").filter(user=3)
    history = recommender.shop.items["key"].gather(interactions["item"]).to_list()
    _, printed, _ = tessera("recommend", "--user", user)
    assert [row[1] for row in rows(printed)] == [each.key for each in recommender.recommend(history)]
    _, printed, _ = tessera("recommend", "--user", user, "--exclude-seen")
    assert not {row[1] for row in rows(printed)} & set(history)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--history", "B000"], 1, "B000: expected the key of an item, found none"),
        (["--user", "nobody"], 1, "nobody: expected the key of one of 120 users, found none such"),
        (["--user", "nobody"], 1, "found none such; filter_reviews leaves out who has fewer than filter.k = "),
        ([], 2, "expected one of --history, --user, --file, found none"),
        (["--history", "", "--user", "x"], 2, "found --history, --user"),
        (["--file", "x.csv"], 2, "--file and --output come together"),
        (["--file", "x.csv", "--output", "x.parquet"], 1, "x.csv: expected a file that ends in"),
        (["--history", "", "--k", "11"], 1, "expected a number from 1 to decode.beams = 10, found 11"),
        (["--history", "", "--model", "nowhere"], 1, "nowhere: expected an exported folder"),
    ],
)
def test_what_cannot_be_done_is_explained(tessera, arguments, status, message):
    found, printed, complaint = tessera("recommend", *arguments)
    assert found == status
    assert message in re.sub(r"[\s│]+", " ", complaint)
    assert printed == ""


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "interactions"])
def test_a_file_of_histories_gives_each_user_what_it_gets_alone(tessera, run, recommender, tmp_path, form):
    lists = histories(run, recommender.shop.items["key"], split="test")[:5]
    users = [f"u{place}" for place in range(len(lists))]
    table = pl.DataFrame({"user": users, "history": lists})
    file = tmp_path / f"told.{'csv' if form == 'interactions' else form}"
    if form == "parquet":
        table.write_parquet(file)
    elif form == "jsonl":
        table.write_ndjson(file)
    elif form == "csv":
        table.with_columns(pl.col("history").list.join("|")).write_csv(file)
    else:
        times = pl.int_range(pl.len()).over("user")
        table.explode("history").select("user", item="history", timestamp=86400 * times).sample(
            fraction=1, shuffle=True, seed=0
        ).write_csv(file)
    output = tmp_path / "found.parquet"
    status, printed, complaint = tessera("recommend", "--file", file, "--output", output)
    assert not status, complaint
    assert "50 recommendations to 5 users" in printed
    found = pl.read_parquet(output)
    assert list(found.schema) == list(RECOMMENDATIONS)
    for user, history in zip(users, lists, strict=True):
        assert found.filter(user=user)["item"].to_list() == [each.key for each in recommender.recommend(history)]


def test_a_file_of_histories_tells_how_far_it_is(tessera, keys, tmp_path, monkeypatch):
    told = []

    def progress(batches, *, title):
        for done, batch in enumerate(batches, start=1):
            yield batch
            told.append((title, done))

    monkeypatch.setattr("tessera.using.commands.progress", progress)
    (tmp_path / "told.csv").write_text(f"user,history\nu0,{keys[0]}\nu1,{keys[1]}|{keys[2]}\n")
    status, _, _ = tessera("recommend", "--file", tmp_path / "told.csv", "--output", tmp_path / "found.parquet")
    assert not status
    assert told == [("text", 1), ("image", 1), ("itemknn", 1), ("sasrec", 1)]


def test_unknown_keys_of_a_file_are_an_error_or_skipped(tessera, keys, tmp_path, caplog):
    file, output = tmp_path / "told.jsonl", tmp_path / "found.parquet"
    file.write_text(json.dumps({"user": 7, "history": [keys[0], "gone"]}))
    status, _, complaint = tessera("recommend", "--file", file, "--output", output)
    assert status == 1
    assert f"{file}: user 7: gone: expected the key of an item" in complaint.replace("\n", "")
    assert "--skip-unknown passes over such keys" in complaint
    assert not output.exists()
    status, *_ = tessera("recommend", "--file", file, "--output", output, "--skip-unknown")
    assert not status
    assert pl.read_parquet(output)["user"].unique().to_list() == ["7"]
    assert "1 key of no item, such as gone" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"user": "a", "history": ["x"]}', '{"user": "a", "history": []}'], "each user once, found a again in row 1"),
        (['{"user": "a", "history": {"x": 1}}'], "expected a list of keys, found {'x': 1} in row 0"),
        (['{"user": "a", "history": "[broken"}'], "expected a list of keys, found '[broken' in row 0"),
        (['{"user": "a", "history": [{"item": "x"}]}'], "expected a list of keys, found [{'item': 'x'}] in row 0"),
    ],
)
def test_what_is_wrong_with_a_history_is_named(tessera, tmp_path, rows, message):
    file = tmp_path / "told.jsonl"
    file.write_text("\n".join(rows))
    status, _, complaint = tessera("recommend", "--file", file, "--output", tmp_path / "found.parquet")
    assert status == 1
    assert message in " ".join(complaint.split())


def test_a_user_in_another_encoding_is_an_error_and_the_line_is_told(tessera, keys, tmp_path, caplog):
    """Two users whose letters cannot be read would be one."""
    file = tmp_path / "told.csv"
    file.write_bytes(f"user,history\nM\xfcller,{keys[0]}\n".encode("latin-1"))
    status, _, complaint = tessera("recommend", "--file", file, "--output", tmp_path / "found.parquet")
    assert status == 1
    assert "expected a user and a history in each row, found none in row 1" in " ".join(complaint.split())
    assert "line 2 is not UTF-8" in caplog.text


def test_keys_of_a_history_may_be_numbers_and_begin_with_a_bracket(tmp_path):
    file = tmp_path / "told.jsonl"
    file.write_text('{"user": "a", "history": [17, "[x]"]}\n{"user": "b", "history": null}')
    told = read_histories(file, ties="file_order", max_malformed=0)
    assert told == (["a", "b"], [["17", "[x]"], []])


def test_rows_that_are_no_interactions_are_told_of(tessera, keys, tmp_path, caplog):
    file, output = tmp_path / "told.csv", tmp_path / "found.parquet"
    sound = "".join(f"u{number},{keys[0]},{1_700_000_000 + number}\n" for number in range(150))
    file.write_text(f"user,item,timestamp\n{sound}bob,{keys[1]},never\n")
    status, printed, _ = tessera("recommend", "--file", file, "--output", output, "--k", 1)
    assert not status
    assert "150 recommendations to 150 users" in printed
    assert "1 of 151 rows are no interactions: bad_time 1" in caplog.text


@pytest.mark.parametrize("name", ["found.csv", ""])
def test_output_is_a_parquet_file(tessera, keys, tmp_path, name):
    (tmp_path / "told.csv").write_text(f"user,history\nu0,{keys[0]}\n")
    status, _, complaint = tessera("recommend", "--file", tmp_path / "told.csv", "--output", tmp_path / name)
    assert status == 2
    assert "expected a file that ends in .parquet" in " ".join(complaint.split())


def test_pictures_that_new_items_lose_are_told_of(tessera, new_items, tmp_path, caplog):
    (new_items.parent / "one.jpg").write_bytes(b"no picture")
    told = new_items.read_text().splitlines()[0]
    new_items.write_text(told)
    status, printed, _ = tessera("add-items", new_items, "--added", tmp_path / "added")
    assert not status
    assert "1 item without its picture (undecodable), such as NEW1" in caplog.text
    assert "1 new item; " in printed


def test_vectors_of_no_modality_are_refused(tessera, new_items, tmp_path):
    status, _, complaint = tessera("add-items", new_items, "--added", tmp_path / "added", "--vectors", "txt=file")
    assert status == 1
    assert "--vectors: expected text, image, found txt" in " ".join(complaint.split())


def test_vectors_that_an_encoder_makes_itself_are_refused(tessera, new_items, tmp_path):
    status, _, complaint = tessera("add-items", new_items, "--added", tmp_path / "added", "--vectors", "text=none")
    assert status == 1
    assert "--vectors: expected none for text, whose encoder is tfidf, found some" in " ".join(complaint.split())


@pytest.mark.parametrize(("least", "kept"), [(None, ["A", "B", "C"]), (3.0, ["A", "C"])])
def test_what_was_not_liked_is_no_history_where_the_run_leaves_it_out(least, kept, tmp_path):
    file = tmp_path / "told.csv"
    file.write_text("user,item,timestamp,rating\nu,A,1,5\nu,B,2,1\nu,C,3,3\n")
    assert read_histories(file, ties="hash", max_malformed=0, min_rating=least) == (["u"], [kept])


@pytest.mark.parametrize(("rating", "unrated"), [("2", 0), ("", 1)])
def test_who_liked_nothing_has_an_empty_history_and_is_told_of(rating, unrated, tmp_path, caplog):
    file = tmp_path / "told.csv"
    file.write_text(f"user,item,timestamp,rating\na,A,1,{rating}\nu,A,1,5\n")
    assert read_histories(file, ties="hash", max_malformed=0, min_rating=3.0) == (["u", "a"], [["A"], []])
    told = f"filter.min_rating = 3.0 leaves nothing of 1 users, such as a; {unrated} of 2 interactions have no rating"
    assert told in caplog.text


@pytest.mark.parametrize("row", ["not JSON", '{"user": "b"}', '{"history": []}'])
def test_a_row_that_is_no_history_is_named(tessera, tmp_path, row):
    file = tmp_path / "told.jsonl"
    file.write_text(f'{{"user": "a", "history": []}}\n{row}\n')
    status, _, complaint = tessera("recommend", "--file", file, "--output", tmp_path / "found.parquet")
    assert status == 1
    assert "expected a user and a history in each row, found none in row 1" in " ".join(complaint.split())


def test_similar(tessera, keys):
    status, printed, _ = tessera("similar", keys[0], "--count", 3)
    assert not status
    lines = [line.strip() for line in printed.splitlines()]
    assert [line for line in lines if line.endswith((" ID", " vector"))] == [
        "text ID",
        "image ID",
        "text vector",
        "image vector",
    ]
    assert not [line for line in printed.splitlines()[1:] if keys[0] in line], "an item is not its own neighbour"
    status, _, complaint = tessera("similar", keys[0][:-1])
    assert status == 1
    assert f"{keys[0]}  " in complaint


def test_added_items_are_shown_and_found(tessera, new_items, tmp_path, caplog):
    added = tmp_path / "added"
    status, printed, complaint = tessera("add-items", new_items, "--added", added)
    assert not status, complaint
    assert "3 new items; " in printed
    assert "1 item there already, left as before, such as" in caplog.text
    for arguments in (
        ["recommend", "--history", "NEW1"],
        ["similar", "NEW3"],
        ["ids", "NEW3"],
        ["export", tmp_path / "shop"],
    ):
        status, printed, complaint = tessera(*arguments, "--added", added)
        assert not status, complaint
        assert "\x1b" not in printed
    assert "NEW2" in set(Recommender.load(tmp_path / "shop").places)


def test_rows_of_new_items_that_are_lost_are_told_of(tessera, recommender, tmp_path, caplog):
    file, title = tmp_path / "items.jsonl", recommender.shop.items["title"][0]
    rows = [{"item": key, "title": title} for key in ("N7", "", *["N8"] * 148)] + [{"item": "N7", "title": "another"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    status, printed, _ = tessera("add-items", file, "--added", tmp_path / "added")
    assert not status
    assert "2 new items; " in printed
    assert "1 of 151 rows are no items: missing_item 1" in caplog.text
    assert "148 rows of items that an earlier row tells of, left out" in caplog.text
    assert title in tessera("ids", "N7", "--added", tmp_path / "added")[1]
    _, _, complaint = tessera("ids", "N7_", "--added", tmp_path / "added")
    assert "items, 2 were added, and others have no ID" in complaint


def test_a_hostile_title_is_printed_as_text(tessera, new_items, tmp_path):
    _, printed, _ = tessera("add-items", new_items, "--added", tmp_path / "added")
    assert "\x1b" not in printed
    assert "Zorp [red]x[/]" in printed, "mark-up of the page is gone, what rich would take for its own is not"
    assert "[31m" in HOSTILE


@pytest.mark.parametrize("command", ["add-items", "export"])
def test_no_other_folder_is_replaced(tessera, new_items, tmp_path, command):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    arguments = [new_items, "--added", tmp_path / "mine"] if command == "add-items" else [tmp_path / "mine"]
    status, _, complaint = tessera(command, *arguments)
    assert status == 1
    assert "expected a new folder or" in " ".join(complaint.split())
    assert (tmp_path / "mine" / "precious").read_text() == "x"


def test_an_export_has_no_users(tessera, tmp_path):
    tessera("export", tmp_path / "shop")
    status, _, complaint = tessera("recommend", "--user", "x", "--model", tmp_path / "shop")
    assert status == 1
    assert "found an export, which has none" in " ".join(complaint.split())


def test_every_command_of_the_documents_runs(copied, tessera, keys, new_items):
    """One after the other, in one folder, on keys and files that this shop has; and then the lines of Python."""
    user = pl.read_parquet(copied / "data/filter_reviews/users.parquet")["key"][0]
    stands_for = {"BPKBIV0UDB": keys[0], "B02HK71Q55": keys[1], "A00D4XH31P": user}
    (copied / "shoppers.csv").write_text(f"user,item,timestamp\nann,{keys[0]},2024-01-02\nann,{keys[1]},2024-01-03\n")
    (copied / "one.jpg").write_bytes((new_items.parent / "one.jpg").read_bytes())
    (copied / "new-items.jsonl").write_bytes(new_items.read_bytes())
    pages = sorted(PAGES, key=lambda page: page.name != "using.md")  # the others only show some of it again
    commands = list(dict.fromkeys(command for page in pages for command in commands_of(page) if uses_a_model(command)))
    assert {command.words[1] for command in commands} == {"recommend", "similar", "add-items", "export"}
    for command in commands:
        arguments = [replaced(word, stands_for) for word in command.words[1:]]
        status, _, complaint = tessera(*arguments, inside=copied)
        assert not status, f"{command.text}: {complaint}"
    for page in ("docs/using.md", "README.md"):
        lines = (ROOT / page).read_text().splitlines()
        start = lines.index("    from tessera import Recommender")
        code = "\n".join(line.strip() for line in lines[start : start + 3])
        assert "recommend([" in code
        exec(compile(replaced(code, stands_for), page, "exec"), {})


def replaced(text: str, stands_for: dict[str, str]) -> str:
    for known, own in stands_for.items():
        text = text.replace(known, own)
    return text


def test_the_readme_links_the_page():
    assert "(docs/using.md)" in (ROOT / "README.md").read_text()
