"""Wrong recipes, and wrong values of fields and flags, of which `wrong_commands.py` makes command lines."""

RETURNS = b"""
from lm_jax.config import *
from lm_jax.models.gpt import GPTConfig
from lm_jax.ngram.smoothing import NGramConfig
def get_config(variant=""):
    return """
# Contents of files that are no recipes.
BAD_RECIPES = {
    "empty": b"",
    "no_function": b"x = 1\n",
    "not_callable": b"get_config = 3\n",
    "syntax": b"def get_config(variant:\n",
    "import_error": b"import nothing_of_this_name\n",
    "raises": b"1 / 0\n",
    "exits": b"import sys\nsys.exit(0)\n",
    "exits_when_called": b"import sys\ndef get_config(variant=''):\n    sys.exit('bye')\n",
    "raises_when_called": b"def get_config(variant=''):\n    raise KeyError('two\\nlines')\n",
    "asserts_when_called": b"def get_config(variant=''):\n    assert False\n",
    "recurses": b"def get_config(variant=''):\n    return get_config(variant)\n",
    "other_arguments": b"def get_config(a, b, c):\n    return None\n",
    "returns_none": b"def get_config(variant=''):\n    pass\n",
    "returns_dict": b"def get_config(variant=''):\n    return {'model': 'gpt'}\n",
    "returns_class": RETURNS + b"Config\n",
    "unknown_field": RETURNS + b"Config(modle=1)\n",
    "text_in_field": RETURNS + b"Config(train=TrainConfig(num_steps='10'))\n",
    "float_in_field": RETURNS + b"Config(model=GPTConfig(num_layers=2.0))\n",
    "nan_in_field": RETURNS + b"Config(optimizer=OptimizerConfig(learning_rate=float('nan')))\n",
    "list_in_field": RETURNS + b"CountConfig(model=NGramConfig(prune=[0, 1]))\n",
    "part_of_another_kind": RETURNS + b"Config(model=TrainConfig())\n",
    "dict_as_part": RETURNS + b"Config(data={})\n",
    "variant": (
        b"from lm_jax import config\ndef get_config(variant=''):\n"
        b"    raise config.unknown_variant(variant, ['', 'large'])\n"
    ),
    "binary": bytes(range(256)),
    "utf16": "def get_config(): pass\n".encode("utf-16"),
    "nul": b"x = 1\0\n",
}
NO_MODULES = ("syntax", "import_error", "raises", "exits", "binary", "utf16", "nul")  # of these
# Values that no field of the type takes.
BAD_VALUES = {
    int: ("two", "", "1.5", "nan", "1e400", "99999999999999999999", "0x10"),
    float: ("two", "", "nan", "inf", "-inf", "1e400"),
    bool: ("maybe", "", "2"),
    tuple: ("a,b", "nan", "99999999999999999999"),
}
# Values of texts that are names of something.
NAMES = (
    "data.corpus", "data.documents", "data.split", "data.valid", "data.test", "data.tokenizer", "data.order",
    "model", "model.position", "model.norm", "model.mlp", "model.attention", "model.dtype", "task",
    "optimizer.name", "optimizer.schedule", "train.average", "init_from",
)  # fmt: skip
OUT_OF_RANGE = (
    "model.num_layers=0", "model.num_layers=-1", "model.num_heads=3", "model.num_heads=0", "model.d_model=0",
    "model.num_kv_heads=3", "model.dropout=1", "model.dropout=-0.1", "model.vocab_size=-1",
    "model.vocab_size=3", "model.layer_norm_epsilon=0", "model.max_length=-1", "model.max_length=8",
    "model.rope_theta=0", "optimizer.learning_rate=0", "optimizer.learning_rate=-1", "optimizer.b1=1",
    "optimizer.b2=-0.5", "optimizer.momentum=1", "optimizer.decay_ratio=0", "optimizer.weight_decay=-1",
    "optimizer.clip_norm=-1", "optimizer.warmup_steps=-1", "optimizer.epsilon=0", "train.num_steps=0",
    "train.num_steps=-5", "train.num_steps=2147483648", "train.batch_size=0", "train.batch_size=-16",
    "train.accumulation=0", "train.accumulation=3", "train.average_decay=1", "train.average_patience=0",
    "train.eval_every=0", "train.checkpoint_every=0", "train.log_every=0", "train.seed=-1",
    "train.seed=4294967296", "train.seed=18446744073709551616", "train.sample_tokens=-1",
    "task.label_smoothing=1", "task.z_loss=-1", "task.chunk_length=-1", "task.activation_penalty=1",
    "data.sequence_length=0", "data.vocab_size=-1", "data.min_count=-1", "data.split=hash:2",
    "data.split=hash:-0.1", "data.split=tail:x", "data.split=", "data.corpus=", "data.corpus=text:",
    "data.corpus=jsonl:nowhere", "data.corpus=nltk:nowhere", "data.corpus=tfds:no/such:thing",
    "data.corpus=text:~nouser/x", "data.tokenizer=", "data.tokenizer=~nouser/x", "data.tokenizer=/",
    "mesh.data=0", "mesh.data=-2", "mesh.fsdp=0", "mesh.tensor=-1", "mesh.data=9999", "mesh.fsdp=4096",
)  # fmt: skip
ABSURD = (
    ("model.num_layers=1000000",), ("model.num_layers=1000000", "model.scan_layers=true"),
    ("model.num_layers=4294967295",), ("train.batch_size=100000000",), ("train.batch_size=4294967292",),
    ("model.d_model=10000000",), ("model.d_model=4294967294",), ("data.sequence_length=999999999",),
    ("data.sequence_length=4294967295",), ("model.max_length=4000000000",), ("model.d_ff=4000000000",),
    ("model.vocab_size=4000000000",), ("train.sample_tokens=4000000000",), ("model.num_heads=10000000",),
    ("train.batch_size=100000000", "train.accumulation=100000000"), ("train.num_steps=99999999999",),
    ("model=rnn", "model.d_hidden=1000000"), ("model=rnn", "model.num_layers=1000000"),
    ("model=rnn", "model.d_embedding=4000000000"), ("model=nnlm", "model.order=4000000000"),
    ("model=nnlm", "model.d_hidden=4000000000"), ("data.sequence_length=99999999999",),
)  # fmt: skip
UNKNOWN = (
    "model.num_layer=2", "modle.num_layers=2", "model.num_layers.x=2", "train=2", "data=text", ".=1", "=1",
    "model.=1", "train.batchsize=8", "optimizer.lr=0.1", "seed=1", "a.b.c.d=1", "[/]=1", "model..d_model=8",
)  # fmt: skip
# Values of flags whose type is a number.
NOT_WHOLE = ("two", "", "1.5", "nan", "1e3", "0x10", "--")
NOT_NUMBER = ("two", "", "1,5")
