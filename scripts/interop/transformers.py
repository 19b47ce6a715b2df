"""transformers and taiyi on the same random checkpoints: logits both ways, greedy continuations, layouts of one for the other."""

import json
import math

import torch
import transformers
from safetensors.torch import save_file

# f32 sums of some thousand products in another order; logits are of the order of 1.
LIMIT = 1e-4
LENGTHS = (1, 7, 33, 90)


def sizes(**more):
    return {
        "vocab_size": 1000,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "max_position_embeddings": 256,
        **more,
    }


def decoders():
    """Name, configuration."""
    t = transformers
    grouped = {"num_key_value_heads": 2, "tie_word_embeddings": False}
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    if int(t.__version__.split(".")[0]) >= 5:
        llama3 = {"rope_parameters": {**scaling, "rope_theta": 500000.0}}
    else:
        llama3 = {"rope_scaling": scaling, "rope_theta": 500000.0}
    yield "qwen2", t.Qwen2Config(**sizes(**grouped))
    yield "qwen2, tied", t.Qwen2Config(**sizes(num_key_value_heads=8, tie_word_embeddings=True))
    yield "qwen3", t.Qwen3Config(**sizes(head_dim=48, **grouped))
    yield "llama", t.LlamaConfig(**sizes(**grouped))
    yield "llama, llama3 rope", t.LlamaConfig(**sizes(**llama3, **grouped))
    yield "glm", t.GlmConfig(**sizes(head_dim=32, attention_bias=True, pad_token_id=0, eos_token_id=1, **grouped))
    yield "biogpt", t.BioGptConfig(**sizes(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layerdrop=0.0))
    yield "bloom", t.BloomConfig(vocab_size=1000, hidden_size=256, n_layer=3, n_head=8)
    yield "bloom, 6 heads", t.BloomConfig(vocab_size=1000, hidden_size=384, n_layer=2, n_head=6)


def encoders():
    """Name, model."""
    t = transformers
    both = sizes(type_vocab_size=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    bert, roberta = t.BertConfig(**both), t.RobertaConfig(**{**both, "type_vocab_size": 1, "pad_token_id": 1})
    for config, name, kind in [(bert, "bert", "Bert"), (roberta, "roberta", "Roberta")]:
        config.num_labels = 5
        yield f"{name}, masked tokens", getattr(t, f"{kind}ForMaskedLM")(config)
        yield f"{name}, labels of tokens", getattr(t, f"{kind}ForTokenClassification")(config)
        yield f"{name}, label of a text", getattr(t, f"{kind}ForSequenceClassification")(config)


def reference(model, sequences):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0] for ids in sequences]


def run(context):
    rows = []

    def row(name, what, measured, limit=LIMIT):
        rows.append((name, what, measured, limit, measured <= limit))

    for seed, (name, config) in enumerate(decoders()):
        attempt(rows, name, lambda: decoder(context, row, name, config, seed))
    for seed, (name, model) in enumerate(encoders()):
        attempt(rows, name, lambda: encoder(context, row, name, model, 100 + seed))
    attempt(rows, "qwen v1", lambda: qwen1(context, row))
    attempt(rows, "chatglm4", lambda: chatglm4(context, row))
    return rows


def attempt(rows, name, check):
    """One model that cannot be run is one row."""
    try:
        check()
    except Exception as error:
        rows.append((name, str(error).splitlines()[0][:200] if str(error) else repr(error), None, None, False))


def decoder(context, row, name, config, seed):
    model = context.seeded(transformers.AutoModelForCausalLM.from_config(config), seed)
    folder = context.folder(name.replace(", ", "-").replace(" ", "-"))
    model.save_pretrained(folder)
    sequences = context.sequences(config.vocab_size, LENGTHS, seed)
    expected = reference(model, sequences)
    found = context.logits(folder, sequences)
    row(name, "our logits of its checkpoint", context.worst(found, expected))

    prompts = sequences[1:3]
    with torch.no_grad():
        continued = [
            model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=24,
                min_new_tokens=24,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[0, len(ids) :].tolist()
            for ids in prompts
        ]
    wrong = sum(a != b for a, b in zip(context.generate(folder, prompts, 24), continued))
    row(name, "greedy continuations that differ", wrong, 0)

    again = context.path("again")
    context.taiyi("model", "export", "--model", folder, "--to", "hf", "--dtype", "f32", "--out", again)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(again, dtype=torch.float32).eval()
    row(name, "its logits of our checkpoint", context.worst(reference(loaded, sequences), found))


def encoder(context, row, name, model, seed):
    model = context.seeded(model, seed)
    folder = context.folder(name.replace(", ", "-").replace(" ", "-"))
    model.save_pretrained(folder)
    sequences = context.sequences(1000, LENGTHS, seed)
    expected = reference(model, sequences)
    row(name, "our logits of its checkpoint", context.worst(context.logits(folder, sequences), expected))
    # The older form of file, in which many published encoders are.
    old = context.folder("bin")
    model.config.save_pretrained(old)
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    row(name, "our logits of its .bin", context.worst(context.logits(old, sequences), expected))
    again = context.path("again")
    context.taiyi("model", "export", "--model", folder, "--to", "hf", "--dtype", "f32", "--out", again)
    loaded = type(model).from_pretrained(again, dtype=torch.float32).eval()
    row(name, "its logits of our checkpoint", context.worst(reference(loaded, sequences), expected))


def drawn(shapes, seed):
    """Tensors of these shapes as `Context.seeded` draws them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values = values / shape[-1] ** 0.5
        elif name.endswith("bias"):
            values = 0.15 * values
        else:
            values = 1 + 0.15 * values
        tensors[name] = values
    return tensors


def exported(context, row, name, folder, to, sequences):
    """transformers on a checkpoint that it does not have in its tree, by way of one that it has."""
    found = context.logits(folder, sequences)
    out = context.path(to)
    context.taiyi("model", "export", "--model", folder, "--to", to, "--dtype", "f32", "--out", out)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    row(name, f"its logits of our export to {to}", context.worst(reference(loaded, sequences), found))
    row(name, f"our logits of our export to {to}", context.worst(context.logits(out, sequences), found))


def qwen1(context, row):
    hidden, inner, vocabulary = 256, 384, 1000
    shapes = {"transformer.wte.weight": (vocabulary, hidden), "transformer.ln_f.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    for layer in range(3):
        shapes |= {
            f"transformer.h.{layer}.{part}": shape
            for part, shape in {
                "ln_1.weight": (hidden,),
                "attn.c_attn.weight": (3 * hidden, hidden),
                "attn.c_attn.bias": (3 * hidden,),
                "attn.c_proj.weight": (hidden, hidden),
                "ln_2.weight": (hidden,),
                "mlp.w1.weight": (inner, hidden),
                "mlp.w2.weight": (inner, hidden),
                "mlp.c_proj.weight": (hidden, inner),
            }.items()
        }
    folder = context.folder("qwen1")
    save_file(drawn(shapes, 11), folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "kv_channels": 32,
        "intermediate_size": 2 * inner,
        "seq_length": 256,
        "max_position_embeddings": 256,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    exported(context, row, "qwen v1", folder, "qwen2", context.sequences(vocabulary, LENGTHS, 11))


def chatglm4(context, row):
    hidden, inner, vocabulary, heads, groups, size = 256, 384, 1000, 8, 2, 32
    packed = (heads + 2 * groups) * size
    shapes = {
        "transformer.embedding.word_embeddings.weight": (vocabulary, hidden),
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (vocabulary, hidden),
    }
    for layer in range(3):
        shapes |= {
            f"transformer.encoder.layers.{layer}.{part}": shape
            for part, shape in {
                "input_layernorm.weight": (hidden,),
                "self_attention.query_key_value.weight": (packed, hidden),
                "self_attention.query_key_value.bias": (packed,),
                "self_attention.dense.weight": (hidden, heads * size),
                "post_attention_layernorm.weight": (hidden,),
                "mlp.dense_h_to_4h.weight": (2 * inner, hidden),
                "mlp.dense_4h_to_h.weight": (hidden, inner),
            }.items()
        }
    tensors = drawn(shapes, 12)
    # A buffer that the files hold and nothing reads.
    tensors["transformer.rotary_pos_emb.inv_freq"] = torch.tensor([math.pow(10000, -i / 8) for i in range(8)])
    folder = context.folder("chatglm4")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["ChatGLMForConditionalGeneration"],
        "model_type": "chatglm",
        "padded_vocab_size": vocabulary,
        "hidden_size": hidden,
        "ffn_hidden_size": inner,
        "num_layers": 3,
        "num_attention_heads": heads,
        "kv_channels": size,
        "multi_query_attention": True,
        "multi_query_group_num": groups,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "rmsnorm": True,
        "layernorm_epsilon": 1.5625e-07,
        "post_layer_norm": True,
        "original_rope": True,
        "rope_ratio": 500,
        "seq_length": 256,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "eos_token_id": [1, 2, 3],
        "pad_token_id": 1,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    exported(context, row, "chatglm4", folder, "glm", context.sequences(vocabulary, LENGTHS, 12))
