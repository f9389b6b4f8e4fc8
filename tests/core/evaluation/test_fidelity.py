"""Fidelity: known answers by a stand-in for Inception, real CLIP code, one sentence a refusal."""

import json
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from flowturbo_core.data.captions import read_captions
from flowturbo_core.data.folders import open_pictures
from flowturbo_core.evaluation import fidelity as module
from flowturbo_core.evaluation.fidelity import (
    default_metrics,
    fidelity,
    load_clip,
    load_inception,
    read_statistics,
)
from flowturbo_core.evaluation.frechet import (
    feature_statistics,
    frechet_distance,
    precision_recall,
)
from flowturbo_core.images import from_pil

CPU = torch.device("cpu")
COMPARING = ("fid", "precision", "recall")


def noise(count, low=0, high=256, side=16, seed=0):
    """Return pictures as ADM has them, uint8 (N, H, W, 3)."""
    drawn = np.random.default_rng(seed).integers(low, high, (count, side, side, 3))
    return drawn.astype(np.uint8)


def folder_of(path, pictures):
    path.mkdir()
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{k:03d}.png")
    return path


def npz(file, **arrays):
    np.savez(file, **arrays)
    return file


def look(images):
    """Stand in for Inception: means of the two halves and of the colours, and no logits."""
    images = images.float() / 255
    halves = torch.stack([half.mean((1, 2, 3)) for half in images.chunk(2, dim=2)], 1)
    return torch.cat([halves, images.mean((2, 3))], 1), images.new_zeros(len(images), 1)


def features(pictures):
    return look(torch.from_numpy(pictures).permute(0, 3, 1, 2))[0]


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(module, "load_inception", lambda weights, device: look)
    monkeypatch.setattr(module, "INCEPTION_FEATURES", 5)


@pytest.fixture
def no_network(monkeypatch):
    """Fail where a network is loaded: a refusal must come before."""

    def load(*arguments):
        raise AssertionError("a network is loaded before the input is refused")

    monkeypatch.setattr(module, "load_inception", load)
    monkeypatch.setattr(module, "load_clip", load)


def refused(match, generated, reference=None, metrics=COMPARING, **options):
    with pytest.raises(ValueError, match=match) as refusal:
        fidelity(generated, reference, metrics, CPU, **options)
    assert "\n" not in str(refusal.value)


# What is measured


def test_distances_are_those_of_the_features(stand_in, tmp_path):
    ours, theirs = noise(70), noise(50, 40, 220, seed=1)
    drawn, compared = folder_of(tmp_path / "a", ours), npz(tmp_path / "b.npz", arr_0=theirs)
    content = fidelity(drawn, compared, COMPARING, CPU)
    of_ours, of_theirs = features(ours), features(theirs)
    assert content["fid"] == pytest.approx(
        frechet_distance(feature_statistics(of_ours), feature_statistics(of_theirs)), rel=1e-6
    )
    assert (content["precision"], content["recall"]) == precision_recall(of_ours, of_theirs)
    assert (content["num_generated"], content["num_reference"]) == (70, 50)
    assert content["fid_reference"] == "pictures"
    assert content["versions"]["torch"] == torch.__version__
    json.dumps(content)


def test_the_same_pictures_have_no_distance(stand_in, tmp_path):
    pictures = noise(40)
    content = fidelity(
        npz(tmp_path / "a.npz", arr_0=pictures), folder_of(tmp_path / "b", pictures), COMPARING, CPU
    )
    assert content["fid"] == pytest.approx(0, abs=1e-9)
    assert (content["precision"], content["recall"]) == (1, 1)


def test_pictures_of_one_colour_each_are_as_far_as_their_means(stand_in, tmp_path):
    black, grey = (np.full((4, 8, 8, 3), value, np.uint8) for value in (0, 51))
    files = [npz(tmp_path / f"{k}.npz", arr_0=p) for k, p in enumerate((black, grey))]
    assert fidelity(*files, ["fid"], CPU)["fid"] == pytest.approx(5 * 0.2**2, rel=1e-5)


def test_of_an_adm_reference_fid_takes_the_statistics_and_recall_the_pictures(stand_in, tmp_path):
    ours, theirs, sigma = noise(30), noise(20, seed=1), 0.01 * np.eye(5)
    reference = npz(
        tmp_path / "VIRTUAL_tiny_labeled.npz",
        arr_0=theirs,
        mu=np.full(5, 0.7, np.float32),
        sigma=sigma,
        mu_s=np.zeros(7),
        sigma_s=np.eye(7),
    )
    content = fidelity(folder_of(tmp_path / "ours", ours), reference, COMPARING, CPU)
    given = read_statistics(reference)
    expected = frechet_distance(feature_statistics(features(ours)), given)
    assert content["fid"] == pytest.approx(expected, rel=1e-6)
    assert content["fid_reference"] == "mu and sigma"
    expected = precision_recall(features(ours), features(theirs))
    assert (content["precision"], content["recall"]) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("extra", [{}, {"mu_s": np.zeros(7), "sigma_s": np.eye(7)}])
def test_a_reference_of_statistics_alone_serves_fid(stand_in, command_line, tmp_path, dtype, extra):
    ours = noise(30)
    statistics = {"mu": np.full(5, 0.7, dtype), "sigma": (0.01 * np.eye(5)).astype(dtype)}
    reference = npz(tmp_path / "stats.npz", **statistics, **extra)
    drawn = folder_of(tmp_path / "ours", ours)
    content = fidelity(drawn, reference, ["fid"], CPU)
    given = read_statistics(reference)
    expected = frechet_distance(feature_statistics(features(ours)), given)
    assert content["fid"] == pytest.approx(expected, rel=1e-6)
    assert (content["fid_reference"], content["num_reference"]) == ("mu and sigma", None)
    refused(
        "stats.npz holds mu and sigma and no pictures, .* and recall cannot: leave out recall",
        drawn,
        reference,
        ["fid", "recall"],
    )
    refused("stats.npz holds mu and sigma and no pictures", reference, drawn, ["fid"])
    assert default_metrics(reference) == ("fid", "isc")
    assert default_metrics(drawn) == ("fid", "isc", "precision", "recall")


def test_the_command_line_says_what_statistics_alone_cannot_tell(
    command_line, stand_in, monkeypatch, tmp_path
):
    monkeypatch.setattr(module, "inception_score", lambda logits: {"inception_score": 1.0})
    reference = npz(tmp_path / "stats.npz", mu=np.zeros(5), sigma=np.eye(5))
    done = command_line(
        "fidelity", "--generated", folder_of(tmp_path / "ours", noise(10)),
        "--reference", reference, "--json", tmp_path / "f.json", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "holds no pictures: precision, recall cannot be computed" in done.out
    assert {"fid", "inception_score"} <= json.loads((tmp_path / "f.json").read_text()).keys()


def test_statistics_that_are_none_are_refused(no_network, tmp_path):
    drawn = folder_of(tmp_path / "ours", noise(10))
    for name, mu, sigma, sentence in (
        ("flat", np.zeros((1, 2048)), np.eye(2048), "mu must be"),
        ("of VGG", np.zeros(4096), np.eye(8), "mu must be"),
        ("negative", np.zeros(2048), -np.eye(2048), "its diagonal holds negatives"),
    ):
        refused(sentence, drawn, npz(tmp_path / f"{name}.npz", mu=mu, sigma=sigma), ["fid"])


def test_only_what_is_asked_for_is_told(stand_in, tmp_path):
    file = npz(tmp_path / "a.npz", arr_0=noise(6))
    told = {"fid", "precision", "recall"} & fidelity(file, file, ["recall"], CPU).keys()
    assert told == {"recall"}


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_folders_and_batches_give_the_same_pictures_in_the_order_of_names(tmp_path, suffix):
    pictures, folder = noise(70), tmp_path / "pictures"  # more than are read at once
    folder.mkdir()
    (folder / "captions.json").write_text("{}")
    for k in reversed(range(70)):
        Image.fromarray(pictures[k]).save(folder / f"{k:03d}{suffix}", lossless=True)
    np.savez_compressed(tmp_path / "pictures.npz", arr_0=pictures, arr_1=np.zeros(70))
    exact = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    read = torch.cat(list(open_pictures(folder, 2).batches()))
    if suffix == ".jpg":
        exact = from_pil([Image.open(folder / f"{k:03d}.jpg") for k in range(70)])
    torch.testing.assert_close(read, exact, rtol=0, atol=0)
    from_batch = torch.cat(list(open_pictures(tmp_path / "pictures.npz", 2).batches()))
    assert torch.equal(from_batch, torch.from_numpy(pictures).permute(0, 3, 1, 2))


def test_grey_pictures_are_read_as_their_colours(tmp_path):
    folder = folder_of(tmp_path / "grey", noise(2)[..., 0])
    images = torch.cat(list(open_pictures(folder, 2).batches()))
    assert images.shape == (2, 3, 16, 16) and torch.equal(images[:, 0], images[:, 2])


# What is refused: pictures


@pytest.mark.parametrize(("metrics", "least"), [(["fid"], 2), (["recall"], 4), (["isc"], 10)])
def test_too_few_pictures(no_network, tmp_path, metrics, least):
    few = npz(tmp_path / "few.npz", arr_0=noise(least - 1))
    enough = npz(tmp_path / "enough.npz", arr_0=noise(least))
    sentence = f"too few pictures: {least - 1}, and at least {least} are needed"
    refused(sentence, few, enough, metrics)
    if metrics != ["isc"]:
        refused(sentence, enough, few, metrics)


def test_folders_that_hold_no_pictures_of_one_size(no_network, tmp_path):
    refused("there is no folder or file", tmp_path / "missing")
    folder = folder_of(tmp_path / "a", noise(3))
    Image.fromarray(noise(1, side=20)[0, :10]).save(folder / "other.png")
    refused("other.png is 20 x 10 pixels, but 000.png is 16 x 16 pixels", folder)
    nested = tmp_path / "nested"
    nested.mkdir()
    folder.rename(nested / "class_0")
    refused("holds no pictures .* not searched", nested)


def test_pictures_of_formats_that_are_no_one_rgb_picture(no_network, tmp_path):
    clear, deep = np.zeros((2, 8, 8, 4), np.uint8), np.zeros((2, 8, 8), np.uint16)
    refused("000.png .*: it is transparent in places", folder_of(tmp_path / "clear", clear))
    refused("000.png .*: its format is I;16", folder_of(tmp_path / "deep", deep))


def test_unreadable_pictures(no_network, tmp_path):
    folder = folder_of(tmp_path / "a", noise(3))
    (folder / "001.png").write_bytes(b"no picture")
    refused("001.png cannot be read as a picture: cannot identify", folder)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_truncated_picture_is_not_taken_for_a_whole_one(stand_in, tmp_path, suffix):
    folder = tmp_path / "a"
    folder.mkdir()
    for k, picture in enumerate(noise(4, side=64)):
        Image.fromarray(picture).save(folder / f"{k}{suffix}")
    file = folder / f"2{suffix}"
    file.write_bytes(file.read_bytes()[:-2000])
    refused(f"2{suffix} cannot be read as a picture", folder, folder)


def test_sets_of_different_sizes(no_network, tmp_path):
    small = folder_of(tmp_path / "small", noise(4))
    large = npz(tmp_path / "large.npz", arr_0=noise(4, side=32))
    refused("small are 16 x 16 pixels, but those in .*large.npz 32 x 32 pixels", small, large)


# What is refused: batches


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"pictures": noise(4)}, "There is no item named 'arr_0.npy'"),
        ({"arr_0": noise(4)[..., 0]}, r"must be uint8 \(N, H, W, 3\), not uint8 \(4, 16, 16\)"),
        ({"arr_0": noise(4).transpose(0, 3, 1, 2)}, r"not uint8 \(4, 3, 16, 16\)"),
        ({"arr_0": noise(4).astype(np.float32)}, r"not float32 \(4, 16, 16, 3\)"),
        ({"arr_0": noise(0)}, r"not uint8 \(0, 16, 16, 3\)"),
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "not object"),
    ],
)
def test_batches_of_another_layout(no_network, tmp_path, arrays, sentence):
    file = npz(tmp_path / "a.npz", **arrays)
    refused(f"a.npz is no .npz file of pictures: .*{sentence}", file)
    refused(
        f"a.npz is no .npz file of pictures: .*{sentence}",
        folder_of(tmp_path / "b", noise(4)),
        file,
    )


def test_files_that_are_no_batches(no_network, tmp_path):
    file = tmp_path / "a.npz"
    file.write_bytes(b"nothing")
    refused("a.npz is no .npz file of pictures: File is not a zip file", file)
    np.save(tmp_path / "a.npy", noise(4))
    refused("a.npy is no .npz file of pictures", tmp_path / "a.npy")


def test_a_truncated_or_damaged_batch_is_not_taken_for_a_whole_one(stand_in, tmp_path):
    file = npz(tmp_path / "a.npz", arr_0=noise(8))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    refused("a.npz is no .npz file of pictures", file, file)
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    file.write_bytes(damaged)
    refused("a.npz is no .npz file of pictures: Bad CRC-32", file, file)


@pytest.mark.parametrize(
    ("told", "sentence"), [(9, "to hold 9 pictures and ends after 0"), (7, "holds more than its 7")]
)
def test_a_batch_whose_header_is_wrong(stand_in, tmp_path, told, sentence):
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w") as archive, archive.open("arr_0.npy", "w") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (told, 16, 16, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(noise(8).tobytes())
    refused(f"a.npz is no .npz file of pictures: arr_0 .*{sentence}", file, file)


@pytest.mark.parametrize(
    ("statistics", "sentence"),
    [
        ({"mu": np.zeros(2048)}, "has no sigma, only mu: FID needs both"),
        ({"sigma": np.eye(2048)}, "has no mu, only sigma: FID needs both"),
        (
            {"mu": np.zeros(768), "sigma": np.eye(768)},
            r"mu must be \(2048,\) finite .* not float64 \(768,\)",
        ),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "mu must be .* finite"),
        ({"mu": np.zeros(2048), "sigma": np.ones(2048)}, r"sigma must be \(2048, 2048\)"),
        ({"mu": np.zeros(2048), "sigma": np.tri(2048)}, "not symmetric"),
        ({"mu": np.array([None]), "sigma": np.eye(2048)}, "allow_pickle=False"),
    ],
)
def test_references_with_wrong_statistics(no_network, tmp_path, statistics, sentence):
    file = npz(tmp_path / "a.npz", arr_0=noise(4), **statistics)
    refused(f"a.npz.*{sentence}", file, file)


# What is refused: the rest


def test_what_is_asked_for(no_network, tmp_path):
    folder = folder_of(tmp_path / "a", noise(10))
    refused(
        "metrics 'sfid': choose from fid, isc, precision, recall, clip", folder, folder, ["sfid"]
    )
    refused("metrics '': choose from", folder, folder, [])
    refused("fid, recall need reference pictures", folder, None, ["recall", "fid"])
    refused("clip needs captions", folder, None, ["clip"])


def test_without_torch_fidelity_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="install requirements-eval.txt in an environment of its"):
        load_inception(None, CPU)


def test_weights_of_inception_that_cannot_be_downloaded(monkeypatch, tmp_path):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(ValueError, match="weights cannot be downloaded from https.*unreachable"):
        load_inception(None, CPU)


def unreachable(*arguments, **options):
    raise OSError("the network is unreachable")


# Captions and CLIP


CAPTIONS = ["a cab", "bad cab", "c"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """Return a whole CLIP model, tiny and random, that spells words of a, b, c and d."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    text = {"vocab_size": 10, "max_position_embeddings": 9, "bos_token_id": 0, "eos_token_id": 1}
    tiny = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=tiny | text | {"pad_token_id": 1},
        vision_config=tiny | {"image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    letters = [letter + end for end in ("", "</w>") for letter in "abcd"]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters]
    (folder / "vocab.json").write_text(json.dumps({t: k for k, t in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    sizes = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return folder


@pytest.fixture
def with_captions(tmp_path):
    """Return a folder of three pictures and their captions by name."""
    folder = folder_of(tmp_path / "drawn", noise(3))
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({f"{k:03d}.png": CAPTIONS[k] for k in (2, 0, 1)}))
    return folder, file


def cosines(folder, pictures, captions):
    """Return the cosine of each picture and its caption, one at a time."""
    model, tokenizer, processor = load_clip(str(folder), CPU)
    found = []
    for picture, caption in zip(pictures, captions, strict=True):
        inputs = tokenizer([caption], return_tensors="pt", truncation=True, max_length=9)
        pixels = processor([Image.fromarray(picture)], return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, **pixels)
        found.append(torch.cosine_similarity(output.image_embeds, output.text_embeds).item())
    return np.array(found)


def test_clip_score_is_the_mean_of_the_positive_cosines(clip_folder, with_captions):
    content = fidelity(with_captions[0], None, ["clip"], CPU, with_captions[1], str(clip_folder))
    each = cosines(clip_folder, noise(3), CAPTIONS)
    assert content["clip_score"] == pytest.approx(100 * each.clip(min=0).mean(), rel=1e-4)
    assert content["captions_cut"] == 0 and content["clip"] == str(clip_folder)


def test_clip_score_of_a_batch_in_parts_with_a_caption_too_long(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_SIZE", 2)
    file = npz(tmp_path / "a.npz", arr_0=noise(5))
    captions = [*CAPTIONS, "a b c d a b c d a b c d", "d"]
    text = tmp_path / "captions.txt"
    text.write_text("\n".join(captions) + "\n")
    content = fidelity(file, None, ["clip"], CPU, text, str(clip_folder))
    each = cosines(clip_folder, noise(5), captions)
    assert len(set(each.round(4))) == 5  # so that mistaken pairs would show
    assert content["clip_score"] == pytest.approx(100 * each.clip(min=0).mean(), rel=1e-4)
    assert content["captions_cut"] == 1


def test_captions_are_by_name_or_a_line_each(with_captions, tmp_path):
    drawn = open_pictures(with_captions[0], 2)
    text = tmp_path / "captions.txt"
    text.write_text("\n".join(CAPTIONS))
    for file in (with_captions[1], text):
        assert read_captions(file, drawn.source, drawn.names, drawn.count) == CAPTIONS


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("c.json", '{"000.png": "a", "001.png": "b"}', "no caption for the picture '002.png'"),
        (
            "c.json",
            '{"000.png": "a", "001.png": "b", "002.png": "c", "3.png": "d"}',
            "no picture for the caption of '3.png'",
        ),
        (
            "c.json",
            '{"000.png": "a", "001.png": 3, "002.png": "c"}',
            "c.json, '001.png': the caption must be a text, not 3",
        ),
        ("c.json", "3", "must hold a JSON object of captions, or a list, not a int"),
        ("c.txt", "a\nb\n", "has 2 captions, and .*drawn 3 pictures"),
        ("c.txt", "a\n\nb", "c.txt, line 2: the caption must be a text, not ''"),
        ("missing.txt", None, "there is no file"),
        ("missing.json", None, "there is no file"),
    ],
)
def test_captions_that_do_not_fit(no_network, with_captions, tmp_path, name, content, sentence):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    refused(sentence, with_captions[0], None, ["clip"], captions=file)


def test_captions_by_name_of_pictures_without(no_network, with_captions, tmp_path):
    file = npz(tmp_path / "a.npz", arr_0=noise(3))
    refused("captions by file name", file, None, ["clip"], captions=with_captions[1])


def test_models_that_are_not_clip(clip_folder, with_captions, tmp_path):
    asked = {"metrics": ["clip"], "captions": with_captions[1]}
    refused("no folder and cannot be downloaded", with_captions[0], clip="./nothing", **asked)
    for name, spoil in (
        ("truncated", lambda f: f.write_bytes(f.read_bytes()[:-1000])),
        ("without", lambda f: f.unlink()),
    ):
        folder = tmp_path / name
        CLIPModel.from_pretrained(clip_folder).save_pretrained(folder)
        spoil(folder / "model.safetensors")
        refused(f"{name} holds no whole CLIP model", with_captions[0], clip=str(folder), **asked)


def test_a_clip_model_that_lacks_weights_is_not_made_whole_by_random_ones(
    clip_folder, with_captions, tmp_path
):
    model = CLIPModel.from_pretrained(clip_folder)
    state = {n: t for n, t in model.state_dict().items() if not n.startswith("text_projection")}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    refused(
        "it lacks text_projection.weight",
        with_captions[0],
        metrics=["clip"],
        captions=with_captions[1],
        clip=str(tmp_path / "part"),
    )


def test_a_hub_that_cannot_be_reached(monkeypatch, with_captions):
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    refused(
        "openai/clip-vit-large-patch14 is no folder and cannot be downloaded: the network is",
        with_captions[0],
        metrics=["clip"],
        captions=with_captions[1],
    )


def test_nothing_is_looked_at_before_all_networks_are_there(monkeypatch, with_captions):
    def looked(images):
        raise AssertionError("looked at pictures first")

    monkeypatch.setattr(module, "load_inception", lambda weights, device: looked)
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    folder, captions = with_captions
    refused("cannot be downloaded", folder, folder, ["fid", "clip"], captions=captions)


# torch-fidelity itself, where it is installed


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Return a file of random weights, such that features neither vanish nor explode."""
    source = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: None)
        network = source.FeatureExtractorInceptionV3("inception", ["2048"])
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    torch.save(network.state_dict(), file)
    return file


@pytest.mark.slow
def test_numbers_are_those_of_torch_fidelity(inception_file, tmp_path):
    calculate_metrics = pytest.importorskip("torch_fidelity").calculate_metrics
    drawn = folder_of(tmp_path / "a", noise(24, side=32))
    compared = folder_of(tmp_path / "b", noise(20, 30, 220, side=32, seed=1))
    metrics = ["fid", "isc", "precision", "recall"]
    content = fidelity(drawn, compared, metrics, CPU, inception=inception_file)
    theirs = calculate_metrics(
        input1=str(drawn),
        input2=str(compared),
        fid=True,
        isc=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    assert content["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert content["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert content["inception_score_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-6)
    assert content["precision"] == pytest.approx(theirs["precision"])
    assert content["recall"] == pytest.approx(theirs["recall"])
    itself = fidelity(drawn, drawn, metrics, CPU, inception=inception_file)
    assert abs(itself["fid"]) < 1e-5 * content["fid"]
    assert (itself["precision"], itself["recall"]) == (1, 1)


def test_weights_that_are_not_inceptions(inception_file, tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(inception_file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="w.pth does not hold Inception's weights"):
        load_inception(file, CPU)
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="w.pth does not hold Inception's weights"):
        load_inception(file, CPU)
    torch.save(Image.new("RGB", (1, 1)), file)  # what wants code to run when it is read
    with pytest.raises(ValueError, match="w.pth does not hold Inception's weights"):
        load_inception(file, CPU)


def test_the_command_line_says_what_to_install_and_writes_nothing(
    command_line, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    pictures, file = folder_of(tmp_path / "pictures", noise(10)), tmp_path / "new" / "f.json"
    refused = command_line(
        "fidelity", "--generated", pictures, "--reference", pictures, "--json", file,
        "--device", "cpu",
    )  # fmt: skip
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "requirements-eval.txt" in refused.err and not file.exists()


def test_the_command_line_writes_what_was_measured(command_line, stand_in, tmp_path):
    pictures, file = folder_of(tmp_path / "pictures", noise(10)), tmp_path / "new" / "f.json"
    done = command_line(
        "fidelity", "--generated", pictures, "--reference", pictures, "--json", file,
        "--metrics", "fid,precision", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    content = json.loads(file.read_text())
    assert content["fid"] == pytest.approx(0, abs=1e-6) and content["precision"] == 1
    assert "fid" in done.out and content["versions"]["torch"]
