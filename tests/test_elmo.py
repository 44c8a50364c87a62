"""ELMo: published activations, an independent computation, weights both ways, directions, bad input."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lm_jax
from lm_jax import embed, files
from lm_jax.errors import UserError
from lm_jax.language_models.bilm import BiLM
from lm_jax.models.elmo import ELMoConfig, init, mix_layers
from lm_jax.pretrained import allennlp
from lm_jax.text.characters import spell

h5py = pytest.importorskip("h5py")
TINY = ELMoConfig(d_model=6, hidden=8, character_dim=3, filters=((1, 4), (3, 5)), num_highways=1)


@pytest.fixture
def published(shared, tmp_path):
    """A copy of the small published model."""
    for name in ("options.json", "lm_weights.hdf5"):
        shutil.copy(shared / "fixtures/elmo" / name, tmp_path / name)
        (tmp_path / name).chmod(0o644)
    return tmp_path


@pytest.fixture(scope="module")
def tiny():
    return BiLM(TINY)


def test_equals_published_activations_with_the_carried_state(shared):
    folder = shared / "fixtures/elmo"
    lists = [[line.split() for line in some] for some in json.loads((folder / "sentences.json").read_text())]
    lm = lm_jax.load(folder)
    state = lm.first_state(len(lists))
    with h5py.File(folder / "lm_embeddings_0.hdf5") as expected:
        for number, batch in enumerate(zip(*lists, strict=True)):
            made = lm.embed(batch, state=state, cut=True)
            state = made.state
            top_TD = made.layers_LBTD[-1, 0, made.mask_BT[0]]
            np.testing.assert_allclose(
                np.stack(np.split(top_TD, 2, axis=-1)), expected[str(number)][()], atol=1e-5
            )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_direction(file, direction, x_TP, clip=3.0):
    """The layers of one direction by the published arrays, one word and one gate at a time."""
    layers = [x_TP]
    for i in range(2):
        cell = file[f"RNN_{direction}/RNN/MultiRNNCell/Cell{i}/LSTMCell"]
        weights, bias, projection = (cell[name][()].astype(float) for name in ("W_0", "B", "W_P_0"))
        h, c, outputs = np.zeros(projection.shape[1]), np.zeros(projection.shape[0]), []
        for x in layers[-1]:
            in_gate, new, forget, out = np.split(np.concatenate([x, h]) @ weights + bias, 4)
            c = np.clip(sigmoid(forget + 1) * c + sigmoid(in_gate) * np.tanh(new), -clip, clip)
            h = np.clip((sigmoid(out) * np.tanh(c)) @ projection, -clip, clip)
            outputs.append(h)
        layers.append(np.array(outputs) + (layers[-1] if i else 0))
    return layers


def test_each_layer_equals_an_independent_computation(published):
    lm, words = lm_jax.load(published), ["The", "caf\u00e9", "."]
    marks = [[259, 257, 260, *[261] * 47], [259, 258, 260, *[261] * 47]]
    characters = np.array([marks[0], *spell([w.encode() for w in words]), marks[1]])
    with h5py.File(published / "lm_weights.hdf5") as file:
        embedded_TCE = np.concatenate([np.zeros((1, 4)), file["char_embed"][()]])[characters]
        found = []
        for i in range(5):
            w = file[f"CNN/W_cnn_{i}"][()][0]
            places = [
                np.einsum("twe,wef->tf", embedded_TCE[:, c : c + len(w)], w) for c in range(51 - len(w))
            ]
            found.append(np.max(places, axis=0) + file[f"CNN/b_cnn_{i}"][()])
        x = np.maximum(np.concatenate(found, axis=-1), 0)
        for i in range(2):
            high = {name: value[()] for name, value in file[f"CNN_high_{i}"].items()}
            gate = sigmoid(x @ high["W_carry"] + high["b_carry"])
            x = gate * np.maximum(x @ high["W_transform"] + high["b_transform"], 0) + (1 - gate) * x
        x = x @ file["CNN_proj/W_proj"][()] + file["CNN_proj/b_proj"][()]
        ahead = one_direction(file, 0, x)
        back = [layer[::-1] for layer in one_direction(file, 1, x[::-1])]
    expected = np.array([np.concatenate(pair, axis=-1)[1:-1] for pair in zip(ahead, back, strict=True)])
    made = lm.embed([words], weights=[0.3, -1.0, 2.0], gamma=1.5)
    np.testing.assert_allclose(made.layers_LBTD[:, 0], expected, atol=1e-5)
    shares = np.exp([0.3, -1.0, 2.0]) / np.exp([0.3, -1.0, 2.0]).sum()
    np.testing.assert_allclose(made.mix_BTD[0], 1.5 * np.tensordot(shares, expected, 1), atol=1e-5)


def test_export_and_import_are_identical(published, tmp_path):
    config, params = allennlp.read(published)
    allennlp.write(tmp_path / "again", config, params)
    again_config, again = allennlp.read(tmp_path / "again")
    assert again_config == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    with h5py.File(published / "lm_weights.hdf5") as a, h5py.File(tmp_path / "again/weights.hdf5") as b:
        for name in ("char_embed", "CNN/W_cnn_4", "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/W_0"):
            np.testing.assert_array_equal(a[name], b[name])


def test_command_writes_the_vectors_of_words(published):
    text, out = published / "text.txt", published / "vectors.hdf5"
    text.write_text("I ate an apple\nI ate\n")
    command = [f"--model={published}", f"--text={text}"]
    embed.main([*command, f"--out={out}"])
    expected = lm_jax.load(published).embed([["I", "ate", "an", "apple"], ["I", "ate"]])
    with h5py.File(out) as file:
        assert sorted(file) == ["0", "1"]
        np.testing.assert_array_equal(file["1"], expected.layers_LBTD[:, 1, :2])
    embed.main([*command, f"--out={out}", "--layer=2"])
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["1"], expected.layers_LBTD[2, 1, :2])


def test_command_writes_means_over_words(tiny, tmp_path, monkeypatch):
    """Of more texts than a batch, in an order of the file that is not that of their lengths."""
    monkeypatch.setattr(embed.language_model, "load", lambda *_: tiny)
    sentences = [["cat", "a", "the", "mat"][: 1 + i % 4] for i in range(40)]
    text, out = tmp_path / "text.txt", tmp_path / "new/vectors.npy"
    text.write_text("".join(" ".join(words) + "\n" for words in sentences))
    layers = tiny.embed(sentences).layers_LBTD
    command = ["--model=elmo", f"--text={text}", f"--out={out}"]
    for flags, chosen in ((), layers), (["--layer=0"], layers[:1]), (["--layer=2"], layers[2:]):
        embed.main([*command, *flags])
        means = [chosen[:, i, : len(words)].mean(axis=(0, 1)) for i, words in enumerate(sentences)]
        np.testing.assert_allclose(np.load(out), means, atol=1e-6)
    embed.main([*command, "--layer=2", "--normalize"])
    np.testing.assert_allclose(np.load(out), means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)


def test_command_compares_texts(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embed.language_model, "load", lambda *_: tiny)
    table = tmp_path / "t.csv"
    command = ["--model=elmo", f"--text=csv:{table}#1", "--second=2", "--layer=1"]
    table.write_text("a cat,a mat\nthe cat,the cat\n")
    embed.main(command)
    a, b = (tiny.embed([words]).layers_LBTD[1, 0].mean(axis=0) for words in (["a", "cat"], ["a", "mat"]))
    cosines = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert cosines == [f"{a @ b / np.linalg.norm(a) / np.linalg.norm(b):.4f}", "1.0000"]
    table.write_text("a cat,a mat\nthe cat,\n")
    with pytest.raises(UserError, match=r"t\.csv:2 has no words"):
        embed.main(command)


def test_command_writes_and_uses_the_vectors_of_a_vocabulary(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(embed.language_model, "load", lambda *_: BiLM(TINY, tiny.params))
    vocabulary, text, words = (tmp_path / name for name in ("words.txt", "text.txt", "words.hdf5"))
    vocabulary.write_text("<S>\ncat\nmat\n")
    text.write_text("a cat\nthe mat cat\n")
    command = ["--model=elmo", f"--vocabulary={vocabulary}"]
    embed.main([*command, f"--out={words}"])
    expected = tiny.embed([["a", "cat"], ["the", "mat", "cat"]]).layers_LBTD
    with h5py.File(words) as file:
        np.testing.assert_allclose(file["embedding"][1], expected[0, 0, 1, :6], atol=1e-6)
        assert file["embedding"].shape == (3, 6)
    command += [f"--text={text}", f"--vectors={words}", f"--out={tmp_path}/layers.hdf5"]
    embed.main(command)
    with h5py.File(tmp_path / "layers.hdf5") as file:
        np.testing.assert_allclose(file["1"], expected[:, 1], atol=1e-6)
    vocabulary.write_text("<S>\nmat\ncat\n")
    with pytest.raises(UserError, match="is of another vocabulary"):
        embed.main(command)
    vocabulary.write_text("<S>\ncat\nmat\n")
    monkeypatch.setattr(embed.language_model, "load", lambda *_: BiLM(TINY, init(TINY, jax.random.key(1))))
    with pytest.raises(UserError, match="is of another model"):
        embed.main(command)
    words.write_bytes(words.read_bytes()[:500])
    with pytest.raises(UserError, match="has no array 'embedding' that can be read"):
        embed.main(command)


@pytest.mark.parametrize(
    ("flags", "lines", "message"),
    [
        (["--vocabulary=V", "--out=v.npy"], "cat\n", "end it with .hdf5"),
        (["--vocabulary=V", "--out=v.hdf5"], "cat\n\nmat\n", "line 2 of .* is ''; give one word a line"),
        (["--vocabulary=V", "--out=v.hdf5"], "cat\nmat\ncat\n", "has 'cat' in lines 1 and 3"),
        (["--vocabulary=V", "--vectors=v.hdf5", "--out=v.npy"], "cat\n", "no texts"),
        (["--vocabulary=V", "--text=V", "--out=v.npy"], "cat\n", "go together"),
        (["--out=v.npy"], "cat\n", "no texts"),
    ],
)
def test_command_refuses_bad_vocabularies(tiny, tmp_path, monkeypatch, flags, lines, message):
    monkeypatch.setattr(embed.language_model, "load", lambda *_: tiny)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "V").write_text(lines)
    with pytest.raises(UserError, match=message):
        embed.main(["--model=elmo", *flags])


def test_command_says_how_many_words_were_cut(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embed.language_model, "load", lambda *_: tiny)
    text = tmp_path / "text.txt"
    command = ["--model=elmo", f"--text={text}", f"--out={tmp_path}/vectors.hdf5"]
    text.write_text(f"a {'x' * 49}\n{chr(233) * 25} {'x' * 48}\n")  # 49 and 50 bytes, and 48
    embed.main(command)
    assert "2 of 4 words: too long, only the first 48 bytes were read" in capsys.readouterr().err
    text.write_text("a cat\n")
    embed.main(command)
    assert "too long" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vectors.hdf5", "vectors.npy"])
def test_a_failed_command_keeps_the_earlier_file(tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr(embed.language_model, "load", lambda *_: tiny)
    text, out = tmp_path / "text.txt", tmp_path / name
    command = ["--model=elmo", f"--text={text}", f"--out={out}"]
    out.write_bytes(b"earlier")
    text.write_text("a cat\n \nmore\n")
    with pytest.raises(UserError, match=r"text\.txt:2 has no words"):
        embed.main(command)
    text.write_text("a cat\n" * 40)
    results = iter([tiny._apply])

    def fail(*arguments):
        for apply in results:  # the first batch of two
            return apply(*arguments)
        raise OSError("the computer fails")

    for place, function in ((tiny, "_apply"), (files.os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(place, function, fail)
            with pytest.raises(OSError, match="the computer fails"):
                embed.main(command)
    assert out.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", name]


def test_command_holds_one_batch_at_a_time(tiny, monkeypatch):
    sentences = [["w"] * (1 + i % 5) for i in range(70)]
    expected, read, calls = tiny.embed(sentences), tiny._read, []
    monkeypatch.setattr(tiny, "_read", lambda *arguments: (calls.append(1), read(*arguments))[1])
    seen = set()
    for number, layers_LTD in tiny.each(sentences):
        assert len(calls) == len(seen) // 32 + 1, "a batch is read when the one before is used up"
        seen.add(number)
        np.testing.assert_array_equal(layers_LTD, expected.layers_LBTD[:, number, : len(sentences[number])])
    assert seen == set(range(70))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=v.txt"], r"end it with \.hdf5 or \.npy"),
        (["--out=v.npy", "--layer=3"], "--layer=3 of 3 layers; give 0 to 2"),
        (["--out=v.npy", "--layer=-1"], "--layer=-1 of 3 layers"),
        (["--out=v.npy", "--pooling=max"], "--pooling with an ELMo"),
        (["--out=v.npy", "--max-tokens=3"], "--max-tokens with an ELMo"),
        (["--out=v.hdf5", "--normalize"], r"--normalize with --out=FILE\.hdf5"),
        (["--out=v.hdf5", "--second=2"], r"--second with --out=FILE\.hdf5"),
    ],
)
def test_flags_that_do_not_fit(tiny, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(embed.language_model, "load", lambda *_: tiny)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        embed.main(["--model=elmo", "--text=none.txt", *flags])
    assert not any(tmp_path.iterdir())


def test_published_size():
    shapes = jax.eval_shape(lambda: init(ELMoConfig(), jax.random.key(0)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 93_600_864


@pytest.mark.slow
def test_two_sentences_through_the_published_shape():
    lm = BiLM(ELMoConfig())
    made = lm.embed([["I", "ate", "an", "apple"], ["I", "ate", "a", "carrot"]])
    assert made.mix_BTD.shape == (2, 4, 1024)
    assert made.layers_LBTD.shape == (3, 2, 4, 1024)
    assert np.isfinite(made.mix_BTD).all()


def test_padding_and_other_sentences_change_nothing(tiny):
    short, long = ["a", "cat"], ["the", "other", "sentence", "is", "a", "long", "one", "of", "many", "words"]
    both, alone = tiny.embed([short, long]), tiny.embed([short])
    np.testing.assert_allclose(both.layers_LBTD[:, 0, :2], alone.layers_LBTD[:, 0], atol=1e-6)
    assert not both.layers_LBTD[:, 0, 2:].any()
    assert not both.mix_BTD[0, 2:].any()
    assert both.mask_BT.sum(axis=1).tolist() == [2, 10]
    for mine, theirs in zip(jax.tree.leaves(both.state), jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], atol=1e-6)


def test_many_sentences_are_read_in_batches(tiny):
    sentences = [["w"] * (1 + i % 5) for i in range(70)]
    made = tiny.embed(sentences)
    assert made.state is None
    for i in (0, 37, 69):
        alone = tiny.embed([sentences[i]])
        np.testing.assert_allclose(
            made.layers_LBTD[:, i, made.mask_BT[i]], alone.layers_LBTD[:, 0], atol=1e-6
        )


def test_no_direction_sees_the_words_that_it_predicts(tiny):
    """The gradient of a place's vectors with respect to the characters' vectors of each other place."""
    module, words_BT = TINY.make(), jnp.arange(6)[None]
    characters_WC = jnp.asarray(spell([bytes([97 + i]) * 3 for i in range(6)]))
    P = TINY.d_model

    def vectors(scale_W):
        def scaled(next_method, args, kwargs, context):
            out = next_method(*args, **kwargs)
            return out * scale_W[:, None] if type(context.module).__name__ == "CharacterEncoder" else out

        with nn.intercept_methods(scaled):
            return module.apply(tiny.params, characters_WC, words_BT, method="spelled_layers")[0][1:, 0]

    seen_LTDW = np.abs(jax.jit(jax.jacrev(vectors))(jnp.ones(6)))
    for part, allowed in ((seen_LTDW[:, :, :P], np.tril), (seen_LTDW[:, :, P:], np.triu)):
        seen_TW = part.sum(axis=(0, 2))
        assert (seen_TW[allowed(np.ones((6, 6))) == 0] == 0).all()
        assert (np.diag(seen_TW) > 0).all()


def test_normalised_mix_equals_its_definition():
    generator = np.random.default_rng(0)
    layers, mask = generator.normal(2, 3, (2, 2, 3, 4)), np.array([[1, 1, 1], [1, 0, 0]], bool)
    made = mix_layers(layers, mask, np.array([0.0, 1.0]), 2.0, norm=True)
    normal = [(x - x[mask].mean()) / x[mask].std() for x in layers]
    shares = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    expected = 2 * (shares[0] * normal[0] + shares[1] * normal[1]) * mask[..., None]
    np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sentences", "options", "message"),
    [
        ([], {}, "no sentences"),
        ([["a"], []], {}, "sentence 1 has no words"),
        (["a cat"], {}, "is a string"),
        ([["a", ""]], {}, "empty word"),
        ([["x" * 51]], {}, "a word of 51 bytes"),
        ([["a"]], {"weights": [1.0]}, "1 weights for 3 layers"),
    ],
)
def test_bad_sentences(tiny, sentences, options, message):
    with pytest.raises(UserError, match=message):
        tiny.embed(sentences, **options)


def test_long_words_are_cut_if_asked(tiny):
    cut, whole = tiny.embed([["x" * 51]], cut=True), tiny.embed([["x" * 48]])
    np.testing.assert_array_equal(cut.mix_BTD, whole.mix_BTD)
    with pytest.raises(UserError, match="a state of 1 sentences for 2"):
        tiny.embed([["a"], ["b"]], state=cut.state)


def test_damaged_files(published):
    weights, options = published / "lm_weights.hdf5", published / "options.json"
    text = options.read_text()
    for old, new, message in (
        ('"projection_dim": 16', '"projection_dim": 8', "by the options"),
        ('"n_characters": 262', '"n_characters": 300', "n_characters=300"),
        ('"relu"', '"gelu"', "activation"),
        ('"filters"', '"filter"', "filters"),
        ('"lstm"', '"gru"', "no part lstm"),
    ):
        assert old in text
        options.write_text(text.replace(old, new))
        with pytest.raises(UserError, match=message):
            lm_jax.load(published)
    options.write_text(text)
    with h5py.File(weights, "a") as file:
        del file["CNN_proj/b_proj"]
    with pytest.raises(UserError, match="has no array CNN_proj/b_proj"):
        lm_jax.load(published)
    weights.write_bytes(b"no HDF5")
    with pytest.raises(UserError, match="not a readable HDF5"):
        lm_jax.load(published)
    with pytest.raises(UserError, match="give its directory"):
        lm_jax.load(weights)
    pickled = weights.rename(published / "lm_weights.pt")
    for path in (published, pickled):
        with pytest.raises(UserError, match="is a pickled file"):
            lm_jax.load(path)


@pytest.mark.parity
def test_the_benchmarks_torch_model_gives_the_same_vectors():
    pytest.importorskip("torch")
    import elmo as benchmark

    config = ELMoConfig(d_model=8, hidden=12, character_dim=4, filters=((1, 4), (2, 6), (3, 8)))
    model, sentences = BiLM(config), benchmark.read_sentences(5)
    theirs = benchmark.torch_model(config, jax.device_get(model.params))(sentences)
    np.testing.assert_allclose(model.embed(sentences).layers_LBTD, theirs, atol=2e-6)


@pytest.mark.parity
def test_the_benchmarks_torch_steps_give_the_same_losses():
    """Three steps of Adagrad, with a clipped gradient, on all words and on the distinct ones."""
    pytest.importorskip("torch")
    import train_elmo as benchmark

    config = ELMoConfig(
        d_model=8, hidden=12, character_dim=4, filters=((1, 4), (2, 6)), vocab_size=300, num_tokens=300
    )
    ids, _ = benchmark.read_words(300)
    steps = [benchmark.our_step(config), *(benchmark.torch_step(config, one) for one in (False, True))]
    ours, *theirs = [[step(benchmark.windows(ids, number)) for number in range(3)] for step in steps]
    assert ours[2] < ours[0]
    for losses in theirs:
        np.testing.assert_allclose(losses, ours, rtol=1e-4)
