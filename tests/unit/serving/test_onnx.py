"""A run as ONNX: the same answers as torch gives, with onnxruntime and numpy alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from genrec.cli import build_app
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError
from genrec.models import item_retrieval
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import HistorySettings, ItemVectorSettings, TreeSettings
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.sasrec import SasRec
from genrec.rankers import Popularity
from genrec.serving import onnx_export
from genrec.serving.onnx import OnnxRecommender
from genrec.serving.onnx_weights import at_precision, write_graphs
from genrec.serving.recommender import Recommender
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

REPOSITORY = Path(__file__).resolve().parents[3]
HISTORIES = [["a1", "a2"], ["c3"], [], ["d4"] * 9, ["b0", "a1", "b2", "c3", "d4"]]


@pytest.fixture(scope="session")
def ours(tmp_path_factory, data, vectors, save_run) -> Recommender:
    """Two levels and all that the best recipe has; an item less than the run has."""
    keys = list(data.item_keys)
    quantizer = ResidualKMeans.fit(vectors, codebook_sizes=(4, 12))
    table = SemanticIdTokenizer.build(quantizer, vectors, item_keys=keys, policy="reassign")
    torch.manual_seed(0)
    model = ItemTokenRetrievalModel.for_index(
        PrefixIndex.from_ids(table.ids, table.level_sizes),
        embedding_dim=16,
        ff_dim=(24, 24),
        max_history=6,
        items=ItemVectorSettings(item_codes=False),
        tree=TreeSettings(vectors_per_prefix=(3,), items_from=1, root_items=True),
        history=HistorySettings(seen_weights=True, seen_start=-2.0),
    )
    path = tmp_path_factory.mktemp("runs") / "best"
    save_run(path, model, table, num_beams=7, max_history=6, rescore=0.5, later_temperature=1.5)
    recommender = Recommender.from_pretrained(path, device="cpu")
    recommender.remove_items(["b1"])
    return recommender


@pytest.fixture(scope="session")
def folder(ours, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "items"
    meta = ours.save_onnx(path)
    assert meta["check"]["same_top_10"] == meta["check"]["same_order"] == 1
    assert meta["check"]["users"] == 30
    raw = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert str(REPOSITORY).encode() not in raw  # nothing of this machine
    return path


@pytest.fixture(scope="session")
def theirs(folder) -> OnnxRecommender:
    return OnnxRecommender.from_pretrained(folder, threads=2)


@pytest.fixture
def exported_again(folder, monkeypatch):
    """Lets an export take its graphs from the folder: tracing takes seconds."""
    names = iter(["encoder", "step_0", "step_1", "rescore"])
    monkeypatch.setattr(
        onnx_export, "_trace", lambda graph: onnx.load(folder / f"{next(names)}.onnx")
    )


def same(expected, found) -> None:
    assert found.items == expected.items
    assert found.titles == expected.titles
    np.testing.assert_allclose(found.flat_scores, expected.flat_scores, rtol=1e-5, atol=1e-5)
    assert found.popular.tolist() == expected.popular.tolist()


# Some of the lists leave nothing; test_files.py holds the warning.
@pytest.mark.filterwarnings("ignore::genrec.serving.stock.NothingLeft")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 1},
        {"k": 99},
        {"exclude_seen": False},
        {"num_beams": 2},
        {"num_beams": 10**30},
        {"batch_size": 1},
        {"exclude": ["a3", "c0"]},
        {"allow": ["a3", "c0", "b1"]},
        {"allow": [["a3"], ["c0", "c1", "c3"], ["b7", "b1"], [], ["a0", "a1", "d2"]]},
        {"exclude": [["a3"], [], ["b7"], ["c0"], ["a0"]], "allow": ["a0", "a3", "b7", "c0"]},
        {"users": ["ann", "bob", 7, "dan", "eve"]},
    ],
    ids=str,
)
def test_the_same_answers(ours, theirs, options):
    expected = ours.recommend(HISTORIES, **options)
    found = theirs.recommend(HISTORIES, **options)
    same(expected, found)
    assert found.owners == expected.owners
    assert "b1" not in {item for items in found.items for item in items}


def test_one_user(ours, theirs):
    same(ours.recommend(["a1", "a2"], 3), theirs.recommend(["a1", "a2"], 3))
    assert theirs.num_items == 31
    assert theirs.titles(theirs.rows(["a1"])) == ["title a1"]
    assert list(theirs.item_keys[:2]) == ["a0", "a1"]
    assert repr(theirs) == "OnnxRecommender(31 items, re-scored by onnxruntime, fp32)"


def test_what_is_wrong_is_said_as_ever(theirs):
    with pytest.raises(DataError, match=r"histories must hold items of the catalogue, got 1 .* 'z"):
        theirs.recommend([["zzz"]])
    with pytest.warns(UserWarning, match="left out"):
        assert theirs.recommend([["zzz", "a1"]], on_unknown="warn").popular.tolist() == [False]
    with pytest.raises(DataError, match="histories must be given, got none"):
        theirs.recommend(None)
    with pytest.raises(ConfigError, match="num_beams must be a whole number >= 1, got 0"):
        theirs.recommend([["a1"]], num_beams=0)
    with pytest.raises(ConfigError, match="threads must be a whole number >= 1, got 0"):
        OnnxRecommender.from_pretrained(REPOSITORY / "none", threads=0)


ALONE = """
import sys
from genrec import OnnxRecommender
recommender = OnnxRecommender.from_pretrained(sys.argv[1])
print(recommender.recommend([["a1", "a2"], ["c3"], []], k=5).items)
print(sorted({"torch", "polars", "scipy", "onnx"} & set(sys.modules)))
"""


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Path:
    """Python of an environment that holds genrec, numpy, onnxruntime and xxhash, and no more."""
    path = tmp_path_factory.mktemp("alone") / "environment"
    venv.create(path, with_pip=False, symlinks=True)
    (site,) = path.glob("lib/python*/site-packages")
    (site / "genrec").symlink_to(REPOSITORY / "genrec")
    wanted, done = ["numpy", "onnxruntime", "xxhash"], set()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {".."}:
            if not (site / top).exists():  # google/ belongs to several
                (site / top).symlink_to(distribution.locate_file(top))
        needed = (line for line in distribution.requires or () if "extra ==" not in line)
        wanted += [re.match(r"[\w.-]+", line)[0] for line in needed]
    return path / "bin" / "python"


def test_onnxruntime_numpy_and_xxhash_are_enough(ours, folder, alone, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(alone), "-c", ALONE, str(tmp_path / "moved")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    expected = ours.recommend([["a1", "a2"], ["c3"], []], k=5).items
    assert done.stdout.splitlines() == [str(expected), "[]"]


def test_the_runtime_imports_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"  # an import of it raises
        "import genrec.serving.onnx\n"
        "print(*{'onnxruntime', 'onnx', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_flipped_bit_is_refused(folder, tmp_path):
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in names} == {".onnx", ".bin", ".npy", ".json"}
    for name in names:
        shutil.copytree(folder, tmp_path / "copy")
        raw = bytearray((tmp_path / "copy" / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (tmp_path / "copy" / name).write_bytes(raw)
        with pytest.raises(ArtifactError) as caught:
            OnnxRecommender.from_pretrained(tmp_path / "copy")
        assert "\n" not in str(caught.value)
        shutil.rmtree(tmp_path / "copy")


def test_other_folders_are_refused(item_run, folder, tmp_path, monkeypatch):
    with pytest.raises(MissingPathError, match="folder must be one of `genrec export --onnx`"):
        OnnxRecommender.from_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="folder must have format genrec-onnx version 1, got"):
        OnnxRecommender.from_pretrained(item_run)
    monkeypatch.setenv("GENREC_SKIP_DIGESTS", "1")
    for name in ("encoder.onnx", "index/leaf_items.npy"):
        shutil.copytree(folder, tmp_path / "copy")
        (tmp_path / "copy" / name).write_bytes(b"nothing")
        with pytest.raises(ArtifactError, match=r"(graph|exported model) must be"):
            OnnxRecommender.from_pretrained(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.usefixtures("exported_again")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_less_precision(ours, theirs, folder, tmp_path, precision):
    meta = ours.save_onnx(tmp_path / "small", precision=precision, least_share=0.0)
    small = OnnxRecommender.from_pretrained(tmp_path / "small")
    assert small.meta == meta | {key: small.meta[key] for key in ("files", "seal")}
    assert meta["precision"] == precision
    before, after = theirs.recommend(HISTORIES), small.recommend(HISTORIES)
    assert after.flat_scores.tolist() != before.flat_scores.tolist()
    scores = [dict(zip(*pair, strict=True)) for pair in zip(after.items, after.scores, strict=True)]
    for items, known, found in zip(before.items, before.scores, scores, strict=True):
        for item, score in zip(items, known, strict=True):
            assert found.get(item, score) == pytest.approx(score, abs=0.05)
    sizes = [(path / "weights.bin").stat().st_size for path in (folder, tmp_path / "small")]
    assert sizes[1] < sizes[0]


@pytest.mark.usefixtures("exported_again")
def test_what_loses_too_much_leaves_nothing_behind(ours, tmp_path, monkeypatch):
    monkeypatch.setattr(
        onnx_export, "same_items", lambda *_: {"users": 30, "same_top_10": 0.9}, raising=True
    )
    with pytest.raises(ConfigError, match=r"top ten of 99.0% of the users, got 90.0% of 30 with i"):
        ours.save_onnx(tmp_path / "small", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said_first(ours, data, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_trace", None)  # not reached
    with pytest.raises(ConfigError, match="only a recommender of a run can be exported, got pop"):
        Recommender(Popularity.fit(data)).save_onnx(tmp_path / "new")
    with pytest.raises(ConfigError, match="precision must be known, got 'int4'; did you mean int8"):
        ours.save_onnx(tmp_path / "new", precision="int4")
    with pytest.raises(ConfigError, match=r"least_share must lie in \[0, 1\], got 99"):
        ours.save_onnx(tmp_path / "new", least_share=99)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="folder to save to must be new or empty"):
        ours.save_onnx(tmp_path)
    with pytest.raises(ConfigError, match="folder to save to must be new or empty"):
        ours.save_onnx(tmp_path / "mine", overwrite=True)  # a file
    with pytest.raises(ConfigError, match="or hold an exported recommender and nothing else, got"):
        ours.save_onnx(tmp_path, overwrite=True)
    assert (tmp_path / "mine").read_text() == "mine"
    with pytest.raises(ConfigError, match="folder to save to must lie beside the run, got"):
        ours.save_onnx(ours.path.parent, overwrite=True)
    assert (ours.path / "meta.json").is_file()
    with monkeypatch.context() as patch:
        patch.delattr(type(ours._shelf.run.model), "graphs")
        with pytest.raises(ConfigError, match="model must be one that can be taken apart for ONNX"):
            ours.save_onnx(tmp_path / "new")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    with pytest.raises(ConfigError, match=r"got no onnx; .*pip install .*\[onnx\]"):
        ours.save_onnx(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def genrec(*words: object):
    return CliRunner().invoke(build_app(), [str(word) for word in words])


@pytest.mark.usefixtures("exported_again")
def test_the_command(ours, theirs, folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    words = ("export", ours.path, "--onnx", tmp_path / "mine", "--users", 7)
    done = genrec(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: --onnx must be new or empty, got {tmp_path}/mine; name another one, or pass "
        "--force to replace an exported recommender\n"
    )
    assert genrec(*words, "--force").stderr == (
        "error: --onnx must be new or empty, or hold an exported recommender and nothing else, "
        f"got {tmp_path}/mine with 'file'; name another one\n"
    )
    (tmp_path / "mine" / "file").unlink()
    shutil.copytree(folder, tmp_path / "mine", dirs_exist_ok=True)
    assert genrec(*words).exit_code == 2
    done = genrec(*words, "--force")
    assert (done.exit_code, done.stderr) == (0, "")
    compared, wrote = done.stdout.splitlines()
    assert compared.startswith("compared for 7 users: the same ten items for 100.0%, in the same o")
    assert wrote.startswith(f"wrote {tmp_path}/mine: 32 items, fp32, 0.")
    found = OnnxRecommender.from_pretrained(tmp_path / "mine").recommend(HISTORIES, exclude=["b1"])
    same(theirs.recommend(HISTORIES), found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--onnx must be given, got nothing; name the folder to make"),
        (("--onnx", "out", "--precision", "fp8"), "--precision must be known, got 'fp8'; did you"),
        (("--onnx", "out", "--data", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_line(ours, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = genrec("export", ours.path, *words)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_users_of_the_data_or_drawn_ones_are_compared(ours, data):
    catalogue = ours._shelf.catalogue
    chosen = onnx_export.check_histories(catalogue, data, 5, 3)
    assert len(chosen) == 5
    keys = list(data.item_keys)
    first = [keys[row] for row in data.sequence_items[: data.valid_ends[0]]]
    assert chosen[0] == first[-3:]
    drawn = onnx_export.check_histories(catalogue, None, 50, 3)
    assert len(drawn) == 50
    assert {len(history) for history in drawn} == {1, 2, 3}
    assert {key for history in drawn for key in history} <= set(catalogue.item_keys)


def test_what_is_compared():
    class Answer:
        def __init__(self, items, scores):
            self.items, self.scores = items, [np.array(row, np.float32) for row in scores]

    one = Answer([["a", "b"], ["a", "b"], ["a", "b"]], [[3, 2], [3, 2], [3, 2]])
    other = Answer([["a", "b"], ["b", "a"], ["a", "c"]], [[3, 2.5], [3.25, 3], [9, 9]])
    assert onnx_export.same_items(one, other) == {
        "users": 3,
        "same_top_10": pytest.approx(2 / 3),
        "same_order": pytest.approx(1 / 3),
        "largest_difference": 1.25,
    }


def test_a_weight_is_written_once_for_all_graphs(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(64, 32)).astype(np.float32)

    def model(name: str):
        tensors = [
            onnx.numpy_helper.from_array(table, name),
            onnx.numpy_helper.from_array(np.full((64, 32), 1e5, np.float32), "large"),
        ]
        nodes = [
            onnx.helper.make_node("MatMul", ["x", name], ["y"]),
            onnx.helper.make_node("MatMul", ["x", "large"], ["z"]),
        ]
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes,
            "graph",
            [value("x", onnx.TensorProto.FLOAT, ["B", 64])],
            [value(out, onnx.TensorProto.FLOAT, ["B", 32]) for out in "yz"],
            initializer=tensors,
        )
        opset = [onnx.helper.make_opsetid("", 18)]
        return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)

    import onnxruntime

    x = rng.normal(size=(3, 64)).astype(np.float32)
    for precision, exact in (("fp32", 1e-5), ("fp16", 0.02), ("bf16", 0.2), ("int8", 0.5)):
        target = tmp_path / precision
        target.mkdir()
        write_graphs(at_precision({"a": model("t"), "b": model("u")}, precision), target)
        for name in "ab":
            session = onnxruntime.InferenceSession(target / f"{name}.onnx")
            y, z = session.run(None, {"x": x})
            assert np.abs(y - x @ table).max() < exact
            np.testing.assert_allclose(z, (x @ np.full((64, 32), 1e5)), rtol=1e-2, atol=1e5 * exact)
    sizes = {path.parent.name: path.stat().st_size for path in tmp_path.rglob("weights.bin")}
    assert sizes["fp32"] == 2 * table.nbytes
    assert sizes["fp16"] == table.nbytes // 2 + table.nbytes  # what is too large stays
    assert sizes["bf16"] == table.nbytes // 2 + table.nbytes // 2
    assert sizes["int8"] == table.nbytes // 4 + table.nbytes // 4


@pytest.fixture
def user_run(run, save_run, tmp_path) -> Path:
    """Code tokens with all that the encoder may read: users, separators, one item after another."""
    table = SemanticIdTokenizer.load(run)
    torch.manual_seed(0)
    model = EncoderDecoderRetrievalModel(
        16,
        16,
        0.0,
        2,
        (1, 2),
        num_embeddings=table.level_sizes,
        sem_id_dim=3,
        ff_dim=32,
        num_users=5,
        separator=True,
        encoder_mask="item_causal",
        full_vocabulary=True,
    )
    return save_run(tmp_path / "users", model, table)


@pytest.fixture
def shared_run(data, save_run, vectors, tmp_path) -> Path:
    """Item tokens by codes alone, of which several items share some; nothing comes back."""
    keys = list(data.item_keys)
    quantizer = ResidualKMeans.fit(vectors, codebook_sizes=(4, 3))
    table = SemanticIdTokenizer.build(quantizer, vectors, item_keys=keys, policy="none")
    torch.manual_seed(0)
    model = ItemTokenRetrievalModel.for_index(
        PrefixIndex.from_ids(table.ids, table.level_sizes),
        embedding_dim=16,
        ff_dim=(24, 24),
        items=ItemVectorSettings(item_vectors=False),
        tree=TreeSettings(prefix_rows=9, vectors_per_prefix=(2,)),
        history=HistorySettings(skip_history=True),
    )
    return save_run(tmp_path / "shared", model, table)


@pytest.fixture
def seen_sasrec_run(data, save_run, tmp_path) -> Path:
    torch.manual_seed(0)
    model = SasRec(data.num_items, embedding_dim=8, ff_dim=16, max_history=4, seen_weights=True)
    torch.nn.init.constant_(model.seen_weight, -0.3)
    return save_run(tmp_path / "sasrec", model)


@pytest.mark.parametrize(
    "which", ["run", "item_run", "sasrec_run", "user_run", "shared_run", "seen_sasrec_run"]
)
def test_other_models(request, which, tmp_path, vectors, monkeypatch):
    ours = Recommender.from_pretrained(request.getfixturevalue(which), device="cpu")
    if which == "item_run":  # added items are exported too, and catalogues of any size
        monkeypatch.setattr(item_retrieval, "_FEW_ITEMS", 0)
        ours.add_items([("new", "A new one", vectors[0])])
    meta = ours.save_onnx(tmp_path / "out")
    assert meta["check"]["same_order"] == 1
    theirs = OnnxRecommender.from_pretrained(tmp_path / "out")
    users = ["ann", "bob", 7, "dan", "eve"]
    for options in ({}, {"k": 99}, {"exclude": ["a3"]}, {"allow": ["a3", "c0"]}):
        found = theirs.recommend(HISTORIES, users=users, **options)
        same(ours.recommend(HISTORIES, users=users, **options), found)
    if which == "user_run":
        with pytest.raises(ConfigError, match="users must be given to a model with 5 user tokens"):
            theirs.recommend(HISTORIES)
    if "sasrec" in which:
        with pytest.raises(ConfigError, match="num_beams must be left out for a model that ranks"):
            theirs.recommend(HISTORIES, num_beams=3)
