"""llama.cpp with GGUF files that taiyi wrote, on random checkpoints of every architecture that both have."""

import collections
import ctypes
import json
import os
import pathlib

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import save_file

LENGTHS = (1, 3, 7, 9, 17, 25, 40, 64)
NEW = 32
# Greedy tokens are compared up to the first step whose two best logits are nearer than this.
MARGIN = 0.05
# llama.cpp rounds activations to half precision before every product, and to 8 bits where weights are quantised.
HALF_LIMIT = 0.01
QUANTISED_LIMITS = {"gguf-q8_0": 0.02, "gguf-q4_0": 0.03, "gguf-q4_k": 0.03}
VOCAB = 1000


def llama(**more):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        **more,
    }
    d, f, h = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim", d // h)
    q, k = h * head, config["num_key_value_heads"] * head
    kind = config["model_type"]
    shapes = {"model.embed_tokens.weight": (VOCAB, d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCAB, d)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        if kind == "baichuan":
            shapes[layer + "self_attn.W_pack.weight"] = (3 * d, d)
        else:
            for name, rows in (("q", q), ("k", k), ("v", k)):
                shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, d)
                if kind in ("qwen2", "glm"):
                    shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
        if kind == "qwen3":
            shapes[layer + "self_attn.q_norm.weight"] = (head,)
            shapes[layer + "self_attn.k_norm.weight"] = (head,)
        shapes[layer + "self_attn.o_proj.weight"] = (d, q)
        if kind == "glm":
            shapes[layer + "mlp.gate_up_proj.weight"] = (2 * f, d)
        else:
            shapes[layer + "mlp.gate_proj.weight"] = (f, d)
            shapes[layer + "mlp.up_proj.weight"] = (f, d)
        shapes[layer + "mlp.down_proj.weight"] = (d, f)
        shapes[layer + "input_layernorm.weight"] = (d,)
        shapes[layer + "post_attention_layernorm.weight"] = (d,)
    return config, shapes


def qwen():
    d, f, layers = 256, 512, 3
    config = {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": VOCAB,
        "hidden_size": d,
        # Both branches.
        "intermediate_size": 2 * f,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "kv_channels": 32,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 512,
        "seq_length": 512,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "no_bias": True,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "tie_word_embeddings": False,
    }
    shapes = {"transformer.wte.weight": (VOCAB, d), "transformer.ln_f.weight": (d,), "lm_head.weight": (VOCAB, d)}
    for i in range(layers):
        layer = f"transformer.h.{i}."
        shapes[layer + "ln_1.weight"] = shapes[layer + "ln_2.weight"] = (d,)
        shapes[layer + "attn.c_attn.weight"] = (3 * d, d)
        shapes[layer + "attn.c_attn.bias"] = (3 * d,)
        shapes[layer + "attn.c_proj.weight"] = (d, d)
        shapes[layer + "mlp.w1.weight"] = shapes[layer + "mlp.w2.weight"] = (f, d)
        shapes[layer + "mlp.c_proj.weight"] = (d, f)
    return config, shapes


def chatglm():
    d, f, layers, groups, head = 256, 512, 3, 2, 32
    config = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_residual_connection_post_layernorm": False,
        "ffn_hidden_size": f,
        "hidden_size": d,
        "kv_channels": head,
        "layernorm_epsilon": 1.5625e-07,
        "multi_query_attention": True,
        "multi_query_group_num": groups,
        "num_attention_heads": 8,
        "num_layers": layers,
        "original_rope": True,
        "padded_vocab_size": VOCAB,
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": 50,
        "seq_length": 512,
        "tie_word_embeddings": False,
    }
    shapes = {
        "transformer.embedding.word_embeddings.weight": (VOCAB, d),
        "transformer.encoder.final_layernorm.weight": (d,),
        "transformer.output_layer.weight": (VOCAB, d),
    }
    for i in range(layers):
        layer = f"transformer.encoder.layers.{i}."
        rows = d + 2 * groups * head
        shapes[layer + "input_layernorm.weight"] = shapes[layer + "post_attention_layernorm.weight"] = (d,)
        shapes[layer + "self_attention.query_key_value.weight"] = (rows, d)
        shapes[layer + "self_attention.query_key_value.bias"] = (rows,)
        shapes[layer + "self_attention.dense.weight"] = (d, d)
        shapes[layer + "mlp.dense_h_to_4h.weight"] = (2 * f, d)
        shapes[layer + "mlp.dense_4h_to_h.weight"] = (d, f)
    return config, shapes


def bloom():
    # Heads whose number is no power of two: the slopes of ALiBi have a rule of their own for them.
    d, heads, layers = 384, 12, 3
    config = {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": VOCAB,
        "hidden_size": d,
        "n_layer": layers,
        "n_head": heads,
        "layer_norm_epsilon": 1e-5,
        "apply_residual_connection_post_layernorm": False,
        "seq_length": 512,
        "tie_word_embeddings": True,
    }
    shapes = {"transformer.word_embeddings.weight": (VOCAB, d)}

    def linear(name, rows, columns):
        shapes[name + ".weight"] = (rows, columns)
        shapes[name + ".bias"] = (rows,)

    def norm(name):
        shapes[name + ".weight"] = shapes[name + ".bias"] = (d,)

    norm("transformer.word_embeddings_layernorm")
    norm("transformer.ln_f")
    for i in range(layers):
        layer = f"transformer.h.{i}."
        norm(layer + "input_layernorm")
        norm(layer + "post_attention_layernorm")
        linear(layer + "self_attention.query_key_value", 3 * d, d)
        linear(layer + "self_attention.dense", d, d)
        linear(layer + "mlp.dense_h_to_4h", 4 * d, d)
        linear(layer + "mlp.dense_4h_to_h", d, 4 * d)
    return config, shapes


SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def models():
    """Name, configuration and shapes of a checkpoint of each architecture."""
    yield "llama", *llama()
    yield "llama 3.1", *llama(rope_theta=500000.0, rope_scaling=SCALING, tie_word_embeddings=True)
    yield "qwen", *qwen()
    yield "qwen2", *llama(model_type="qwen2", architectures=["Qwen2ForCausalLM"], rope_theta=1e6, rms_norm_eps=1e-6)
    yield "qwen3", *llama(
        model_type="qwen3",
        architectures=["Qwen3ForCausalLM"],
        head_dim=48,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    )
    yield "chatglm (GLM-4)", *chatglm()
    yield "glm", *llama(
        model_type="glm",
        architectures=["GlmForCausalLM"],
        attention_bias=True,
        head_dim=32,
        partial_rotary_factor=0.5,
        rms_norm_eps=1.5625e-07,
        rope_theta=500000.0,
    )
    # llama.cpp tells the 7B and the 13B by their layers.
    seven = {"architectures": ["BaiChuanForCausalLM"], "num_hidden_layers": 32, "num_key_value_heads": 8}
    yield "baichuan 7B", *llama(model_type="baichuan", rms_norm_eps=1e-6, **seven)
    thirteen = {
        "architectures": ["BaichuanForCausalLM"],
        "num_hidden_layers": 40,
        "hidden_size": 320,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
    }
    for name, more in (("baichuan 13B", {}), ("baichuan2 13B", {"z_loss_weight": 0})):
        config, shapes = llama(model_type="baichuan", rms_norm_eps=1e-6, **thirteen, **more)
        # What tells rotation from ALiBi in our reading.
        config["model_max_length"] = config.pop("max_position_embeddings")
        yield name, config, shapes
    yield "bloom", *bloom()


def checkpoint(context, name, config, shapes, seed):
    """A folder with random weights that half precision holds exactly."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for key, shape in shapes.items():
        drawn = generator.standard_normal(shape, dtype=np.float32)
        if len(shape) == 2:
            drawn /= shape[1] ** 0.5
            # Logits of a spread that real models have, so that the best is not often near the second.
            if key in ("lm_head.weight", "transformer.output_layer.weight"):
                drawn *= 4
            elif shape[0] == VOCAB:
                drawn *= 4 if config.get("tie_word_embeddings") else shape[1] ** 0.5
            drawn = drawn.astype(np.float16).astype(np.float32)
        else:
            drawn = (0 if key.endswith("bias") else 1) + 0.15 * drawn
        tensors[key] = drawn
    folder = context.folder(name.replace(" ", "-"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


@llama_cpp.llama_log_callback
def ignore(level, text, data):
    """What llama.cpp tells about its buffers."""


class Model:
    """A GGUF file in llama.cpp, fed with token ids."""

    def __init__(self, path):
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {pathlib.Path(path).name}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def close(self):
        llama_cpp.llama_model_free(self.model)

    def start(self):
        """A context without memory of other sequences."""
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = 256
        parameters.n_batch = parameters.n_ubatch = 128
        parameters.n_threads = parameters.n_threads_batch = os.cpu_count() or 1
        return llama_cpp.llama_init_from_model(self.model, parameters)

    def feed(self, session, ids, first):
        """Logits behind each of the ids, which stand at the positions from `first` on."""
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        failed = llama_cpp.llama_decode(session, batch)
        if failed:
            raise RuntimeError(f"llama_decode gives {failed}")
        rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(session, i), (VOCAB,)).copy() for i in range(len(ids))]
        llama_cpp.llama_batch_free(batch)
        return np.stack(rows)

    def logits(self, ids):
        session = self.start()
        found = self.feed(session, ids, 0)
        llama_cpp.llama_free(session)
        return found

    def greedy(self, ids, count):
        session, new = self.start(), []
        rows = self.feed(session, ids, 0)
        while len(new) < count:
            new.append(int(rows[-1].argmax()))
            rows = self.feed(session, new[-1:], len(ids) + len(new) - 1)
        llama_cpp.llama_free(session)
        return new

    def tokenize(self, text, special):
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, special)
        if count < 0:
            raise RuntimeError(f"llama_tokenize gives {count}")
        return list(ids[:count])


def relative(found, expected):
    """Root mean square of the difference, by that of the expected values."""
    found, expected = np.concatenate(found), np.concatenate(expected)
    return float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))


def ours(context, model, sequences):
    return [logits.numpy() for logits in context.logits(model, sequences)]


def export(context, folder, to):
    out = context.path(f"{to}.gguf")
    context.taiyi("model", "export", "--model", folder, "--to", to, "--out", out)
    return out


def run(context):
    llama_cpp.llama_log_set(ignore, None)
    rows = []
    for seed, (name, config, shapes) in enumerate(models()):
        folder = checkpoint(context, name, config, shapes, seed)
        greedy_tokens(context, rows, name, folder, seed)
        if name in ("llama", "qwen", "qwen2", "bloom"):
            quantised(context, rows, name, folder, seed)
    blocks(context, rows)
    tokenizer(context, rows)
    return rows


def greedy_tokens(context, rows, name, folder, seed):
    """The file in half precision, which holds the weights exactly."""
    prompts = context.sequences(VOCAB, LENGTHS, seed)
    expected = context.generate(folder, prompts, NEW)
    whole = ours(context, folder, [prompt + new for prompt, new in zip(prompts, expected)])
    model = Model(export(context, folder, "gguf-f16"))
    compared = different = 0
    for prompt, new, logits in zip(prompts, expected, whole):
        best = np.sort(logits[len(prompt) - 1 : -1], axis=1)
        narrow = np.flatnonzero(best[:, -1] - best[:, -2] < MARGIN)
        until = int(narrow[0]) if len(narrow) else NEW
        found = model.greedy(prompt, until) if until else []
        compared += until
        different += sum(a != b for a, b in zip(found, new[:until]))
    found = [model.logits(prompt + new) for prompt, new in zip(prompts, expected)]
    model.close()
    error = relative(found, whole)
    rows.append((name, "llama.cpp's logits of our F16 file, relative", error, HALF_LIMIT, error <= HALF_LIMIT))
    # As many steps as one prompt has must be comparable, or the row says little.
    enough = compared >= NEW
    rows.append((name, f"llama.cpp's greedy tokens other than ours, of {compared}", different, 0, different == 0 and enough))


def quantised(context, rows, name, folder, seed):
    """Files in fewer bits: llama.cpp's reading of them and ours."""
    sequences = context.sequences(VOCAB, LENGTHS, seed)
    for to, limit in QUANTISED_LIMITS.items():
        path = export(context, folder, to)
        model = Model(path)
        error = relative([model.logits(ids) for ids in sequences], ours(context, path, sequences))
        model.close()
        rows.append((name, f"llama.cpp's logits of our {to} file and ours of it, relative", error, limit, error <= limit))


def ggml_quantize():
    """`ggml_quantize_chunk` of the library that the package brings."""
    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libggml-base.*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_init.restype = None

    def quantize(kind, values):
        columns = values.shape[1]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.zeros((values.shape[0], columns // block * size), dtype=np.uint8)
        library.ggml_quantize_init(int(kind))
        library.ggml_quantize_chunk(
            ctypes.c_int(int(kind)),
            values.ctypes.data_as(ctypes.c_void_p),
            out.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(0),
            ctypes.c_int64(values.shape[0]),
            ctypes.c_int64(columns),
            None,
        )
        return out

    return quantize


def blocks(context, rows):
    """The bytes of quantised tensors, beside those that ggml makes of the same values."""
    config, shapes = llama()
    folder = checkpoint(context, "blocks", config, shapes, 99)
    # The names and orders of half precision, in which the values are exact.
    values = {t.name: t.data.astype(np.float32) for t in gguf.GGUFReader(export(context, folder, "gguf-f16")).tensors}
    quantize = ggml_quantize()
    same, all_of, off, theirs = (collections.Counter() for _ in range(4))
    for to in QUANTISED_LIMITS:
        for tensor in gguf.GGUFReader(export(context, folder, to)).tensors:
            kind = tensor.tensor_type
            if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
                continue
            size = gguf.GGML_QUANT_SIZES[kind][1]
            x = np.ascontiguousarray(values[tensor.name])
            reference = quantize(kind, x)
            ours_, theirs_ = (data.reshape(-1, size) for data in (np.ascontiguousarray(tensor.data), reference))
            same[kind.name] += int((ours_ == theirs_).all(axis=1).sum())
            all_of[kind.name] += len(ours_)
            off[kind.name] += float(((gguf.quants.dequantize(tensor.data, kind) - x) ** 2).sum())
            theirs[kind.name] += float(((gguf.quants.dequantize(reference, kind) - x) ** 2).sum())
    for kind, count in all_of.items():
        ratio = (off[kind] / theirs[kind]) ** 0.5
        share = 1 - same[kind] / count
        rows.append((kind, "our blocks whose bytes are not ggml's, of all", share, 0.01, share <= 0.01))
        rows.append((kind, "our error by ggml's", ratio, 1.001, ratio <= 1.001))


TEXTS = (
    "acute pancreatitis and fever of 38.5 °C",
    "急性胰腺炎，体温38.5℃。",
    "  two  blanks\n\n\nand lines\t\ttabs ",
    "It's 'RE we'll DON'T x'Y",
    "<|im_start|>user\nhello<|im_end|>",
    "mixed 中文 and English，numbers 1234567 ½ Ⅷ",
)


def tokenizer(context, rows):
    """Ids of text by the tokenizer inside the file."""
    text = context.path("text.txt")
    text.write_text("\n".join(TEXTS) * 20, encoding="utf-8")
    trained = context.path("tokenizer")
    context.taiyi("tokenizer", "train", "--input", text, "--vocab-size", "420", "--out", trained)
    config, shapes = llama(model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    folder = checkpoint(context, "spoken", config, shapes, 5)
    for file in trained.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    lines = context.path("texts.jsonl")
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    path = export(context, folder, "gguf-q8_0")
    model = Model(path)
    for what, place in (("our folder", folder), ("our file", path)):
        expected = [json.loads(line)["ids"] for line in context.taiyi("tokenize", "--model", place, lines).splitlines()]
        different = sum(model.tokenize(text, True) != ids for text, ids in zip(TEXTS, expected, strict=True))
        rows.append(("qwen2 tokenizer", f"texts whose ids by llama.cpp are not those of {what}, of {len(TEXTS)}", different, 0, different == 0))
    model.close()
