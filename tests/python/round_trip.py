"""Model folders by Python's transformers, and what it makes of folders written here.

    round_trip.py make DIR     writes one folder a case into DIR: model/, inputs.safetensors, expected.safetensors, case.json
    round_trip.py check DIR    loads every DIR/CASE/converted and compares its outputs with those of DIR/CASE/model

Weights are random and wide, so that every term of every formula shows in the outputs.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    NystromformerConfig,
    RobertaConfig,
)

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

HEADS = [
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
]


def tiny(kind, **changes):
    """A configuration of two layers."""
    common = dict(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=40,
        initializer_range=0.3,
        num_labels=3,
    )
    own = {
        "bert": dict(type_vocab_size=2),
        "roberta": dict(type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5),
        "nystromformer": dict(segment_means_seq_len=16, num_landmarks=4, conv_kernel_size=5),
    }[kind]
    classes = {"bert": BertConfig, "roberta": RobertaConfig, "nystromformer": NystromformerConfig}
    return classes[kind](**{**common, **own, **changes})


def inputs_of(kind, config, head, batch=3, length=11, left=False, only=(), seed=0):
    """Ids with padding of every length, segments where there are any, and positions only where they are asked for."""
    g = torch.Generator().manual_seed(seed)
    if kind == "nystromformer":
        length = config.segment_means_seq_len
        if config.num_landmarks != length:
            # Landmarks with a mask crash in transformers 5.
            only = [n for n in only or ("input_ids", "token_type_ids") if n != "attention_mask"]
    shape = (batch, 4, length) if head == "ForMultipleChoice" else (batch, length)
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    ids = torch.randint(3, config.vocab_size, shape, generator=g)
    mask = torch.ones(shape, dtype=torch.long)
    rows_ids, rows_mask = ids.view(-1, length), mask.view(-1, length)
    for row in range(rows_ids.shape[0]):
        n = (row * 2) % length
        if n and (not only or "attention_mask" in only):
            where = slice(0, n) if left else slice(length - n, length)
            rows_ids[row, where] = pad
            rows_mask[row, where] = 0
    types = torch.randint(0, max(config.type_vocab_size, 1), shape, generator=g)
    # Multiples that are not the default rule's, and repeat.
    positions = torch.arange(length).mul(3).remainder(config.max_position_embeddings - 2).expand(shape).contiguous()
    everything = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "position_ids": positions,
    }
    only = only or ("input_ids", "attention_mask", "token_type_ids")
    return {name: everything[name].contiguous() for name in only}


def outputs_of(model, inputs):
    """Everything `cargo xtask forward` promises, by its names."""
    with torch.no_grad():
        found = model.eval()(**inputs, output_hidden_states=True)
        named = {}
        for name in [
            "logits",
            "start_logits",
            "end_logits",
            "prediction_logits",
            "seq_relationship_logits",
            "last_hidden_state",
            "pooler_output",
        ]:
            if getattr(found, name, None) is not None:
                named[name] = getattr(found, name)
        body = getattr(model, model.base_model_prefix, None)
        if body is not None and "last_hidden_state" not in named:
            flat = {k: v.view(-1, v.shape[-1]) for k, v in inputs.items()}
            inner = body(**flat)
            named["last_hidden_state"] = inner.last_hidden_state
            if getattr(inner, "pooler_output", None) is not None:
                named["pooler_output"] = inner.pooler_output
    return {name: value.float().contiguous() for name, value in named.items()}


def build(kind, head, config, seed=0):
    torch.manual_seed(seed)
    prefix = {"bert": "Bert", "roberta": "Roberta", "nystromformer": "Nystromformer"}[kind]
    model = getattr(transformers, prefix + head)(config).eval()
    with torch.no_grad():
        # Biases and normalisations start at 0 and 1, where a mistake with them would not show.
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(torch.randn(p.shape) * 0.2)
    return model


def cases():
    """Yields (name, kind, head, config, options)."""
    for kind in ["bert", "roberta", "nystromformer"]:
        heads = HEADS + (["ForPreTraining", "ForNextSentencePrediction"] if kind == "bert" else [])
        for head in heads:
            # Python gives a question answering model as many columns as there are labels, and takes two.
            labels = 2 if head == "ForQuestionAnswering" else 3
            yield f"{kind}-{head}", kind, head, tiny(kind, num_labels=labels), {}

    # How the folder is stored.
    for kind in ["bert", "roberta", "nystromformer"]:
        s = "ForSequenceClassification"
        yield f"{kind}-bin", kind, s, tiny(kind), {"store": "bin"}
        yield f"{kind}-old-torch", kind, "ForMaskedLM", tiny(kind), {"store": "old"}
        yield f"{kind}-shards", kind, s, tiny(kind), {"store": "shards"}
        yield f"{kind}-bin-shards", kind, s, tiny(kind), {"store": "bin-shards"}
        yield f"{kind}-f16", kind, s, tiny(kind), {"store": "f16"}
        yield f"{kind}-bf16", kind, "ForTokenClassification", tiny(kind), {"store": "bf16"}
        yield f"{kind}-no-prefix", kind, s, tiny(kind), {"store": "no-prefix"}
        yield f"{kind}-prefixed-body", kind, "Model", tiny(kind), {"store": "prefixed"}
        for head in ["ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice"]:
            yield f"{kind}-no-architectures-{head}", kind, head, tiny(kind), {"head": True}
    yield "bert-gamma-beta", "bert", "ForMaskedLM", tiny("bert"), {"store": "gamma"}
    yield "bert-2019", "bert", "ForSequenceClassification", tiny("bert"), {"store": "2019"}
    yield "roberta-2019", "roberta", "ForMaskedLM", tiny("roberta"), {"store": "2019"}
    yield "bert-sentence", "bert", "Model", tiny("bert"), {"store": "sentence"}
    yield "bert-sentence-inner", "bert", "Model", tiny("bert"), {"store": "sentence-inner"}
    yield "bert-body-without-pooler", "bert", "Model", tiny("bert"), {"store": "no-pooler"}

    # What is given.
    for kind in ["bert", "roberta", "nystromformer"]:
        s = "ForSequenceClassification"
        left = {"num_landmarks": 16} if kind == "nystromformer" else {}
        yield f"{kind}-left", kind, s, tiny(kind, **left), {"inputs": dict(left=True)}
        yield f"{kind}-ids-alone", kind, s, tiny(kind), {"inputs": dict(only=("input_ids",))}
        yield f"{kind}-no-types", kind, s, tiny(kind), {"inputs": dict(only=("input_ids", "attention_mask"))}
        yield f"{kind}-no-mask", kind, s, tiny(kind), {"inputs": dict(only=("input_ids", "token_type_ids"))}
        everything = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
        yield f"{kind}-positions", kind, s, tiny(kind), {"inputs": dict(only=everything)}
        yield f"{kind}-one-sample", kind, "ForTokenClassification", tiny(kind), {"inputs": dict(batch=1)}
    for kind in ["bert", "roberta"]:
        yield f"{kind}-one-token", kind, "ForTokenClassification", tiny(kind), {"inputs": dict(length=1)}
        yield f"{kind}-longest", kind, "ForMaskedLM", tiny(kind), {"inputs": dict(length=38)}

    # What the configuration says.
    for kind in ["bert", "roberta", "nystromformer"]:
        s = "ForSequenceClassification"
        yield f"{kind}-regression", kind, s, tiny(kind, num_labels=1), {}
        yield f"{kind}-regression-named", kind, s, tiny(kind, num_labels=1, problem_type="regression"), {}
        multi = tiny(kind, num_labels=5, problem_type="multi_label_classification")
        yield f"{kind}-multi-label", kind, s, multi, {}
        names = {0: "none", 1: "some", 2: "all", 3: "né"}
        named = tiny(kind, id2label=names, label2id={v: k for k, v in names.items()}, num_labels=4)
        yield f"{kind}-named-labels", kind, s, named, {}
        odd = tiny(kind, hidden_size=35, num_attention_heads=5, intermediate_size=7, vocab_size=37, num_hidden_layers=3)
        yield f"{kind}-odd", kind, "ForMaskedLM", odd, {}
        yield f"{kind}-one-head", kind, "ForTokenClassification", tiny(kind, num_attention_heads=1), {}
        yield f"{kind}-extra-keys", kind, s, tiny(kind), {"extra": True}
        for act in ["gelu_new", "relu", "silu", "gelu_pytorch_tanh", "gelu_fast", "tanh", "swish", "gelu"]:
            yield f"{kind}-{act}", kind, "ForMaskedLM", tiny(kind, hidden_act=act), {}
        yield f"{kind}-untied", kind, "ForMaskedLM", tiny(kind, tie_word_embeddings=False), {"untied": True}
        yield f"{kind}-eps", kind, s, tiny(kind, layer_norm_eps=1e-3), {}
    yield "bert-untied-pretraining", "bert", "ForPreTraining", tiny("bert", tie_word_embeddings=False), {"untied": True}
    yield "bert-no-padding-id", "bert", "ForSequenceClassification", tiny("bert", pad_token_id=None), {}
    yield "bert-one-type", "bert", "ForSequenceClassification", tiny("bert", type_vocab_size=1), {}
    yield "roberta-two-types", "roberta", "ForSequenceClassification", tiny("roberta", type_vocab_size=2), {}
    yield "roberta-other-padding", "roberta", "ForSequenceClassification", tiny("roberta", pad_token_id=5), {}
    n = "nystromformer"
    yield "nystromformer-full", n, "ForMaskedLM", tiny(n, num_landmarks=16), {}
    yield "nystromformer-full-any-length", n, "ForSequenceClassification", tiny(n, num_landmarks=16), {"length": 7}
    yield "nystromformer-long", n, "ForQuestionAnswering", tiny(n, segment_means_seq_len=32, num_landmarks=8, num_labels=2), {}
    yield "nystromformer-two-landmarks", n, "ForMaskedLM", tiny(n, num_landmarks=2), {}


def rename(folder, f, drop=()):
    file = folder / "model.safetensors"
    tensors = {f(n): t for n, t in load_file(file).items() if not n.startswith(tuple(drop) or "\0")}
    save_file(tensors, file, metadata={"format": "pt"})


def store(model, folder, kind, how):
    if how == "shards":
        model.save_pretrained(folder, max_shard_size="12KB")
        assert (folder / "model.safetensors.index.json").is_file()
        return
    model.save_pretrained(folder)
    prefix = model.base_model_prefix + "."
    body = ("embeddings.", "encoder.", "pooler.")
    state = load_file(folder / "model.safetensors")
    if how == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    elif how == "old":
        torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif how == "bin-shards":
        names = sorted(state)
        halves = [names[::2], names[1::2]]
        files = [f"pytorch_model-{i + 1:05}-of-00002.bin" for i in range(2)]
        for half, file in zip(halves, files):
            torch.save({n: state[n] for n in half}, folder / file)
        index = {"metadata": {}, "weight_map": {n: f for half, f in zip(halves, files) for n in half}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    elif how == "no-prefix":
        rename(folder, lambda n: n.removeprefix(prefix))
    elif how == "prefixed":
        rename(folder, lambda n: prefix + n if n.startswith(body) else n)
    elif how == "gamma":
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

        def rule(n):
            for new, before in old.items():
                n = n.replace(new, before)
            return n

        rename(folder, rule)
    elif how == "no-pooler":
        rename(folder, lambda n: n, drop=["pooler."])
    elif how == "2019":
        torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        file = folder / "config.json"
        config = json.loads(file.read_text())
        labels = config.pop("id2label", None)
        for key in ["architectures", "model_type", "label2id", "dtype", "transformers_version", "pad_token_id", "position_embedding_type"]:
            config.pop(key, None)
        config.update(num_labels=len(labels or "ab"), output_attentions=False, torchscript=False, finetuning_task="mrpc", pruned_heads={})
        file.write_text(json.dumps(config))
    elif how == "sentence":
        (folder / "modules.json").write_text(json.dumps([
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    elif how == "sentence-inner":
        inner = folder / "0_Transformer"
        inner.mkdir()
        for name in ["config.json", "model.safetensors"]:
            (folder / name).rename(inner / name)
        (folder / "modules.json").write_text(json.dumps([
            {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        ]))
    if how in ["bin", "old", "bin-shards", "2019"]:
        (folder / "model.safetensors").unlink()


def config_file(folder):
    inner = folder / "0_Transformer/config.json"
    return inner if inner.is_file() else folder / "config.json"


TEXTS = [
    ("The whales swim; the WHALE sings.", None),
    ("café naïve 42", "and the sea"),
    ("  two  blanks, and a word that nobody knows: zyzzyva", "x"),
    ("", None),
    ("日本 the [MASK] <mask> sea", None),
]


def vocabulary():
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["the", "whale", "sea", "and", "a", "word", "swim", "sings", "The", "WHALE", "42", "cafe", "café"]
    pieces = ["##s", "##" + "ing"] + ["##" + c for c in letters]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + words + list(letters) + pieces + list(";.,:日")


def byte_level(folder):
    """A vocab.json and merges.txt as RoBERTa's: bytes first, then joined pairs."""
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = {b: chr(b) for b in visible}
    for b in range(256):
        letters.setdefault(b, chr(256 + sum(1 for x in range(b) if x not in visible)))
    merges = ["t h", "h e", "th e", "Ġ t", "Ġt he", "w h", "a l", "wh al", "whal e", "Ġ whale", "e a", "Ġ s", "Ġs ea", "T h", "T he"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>"] + [letters[b] for b in range(256)]
    tokens += [m.replace(" ", "") for m in merges] + ["<mask>"]
    unique = list(dict.fromkeys(tokens))
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(unique)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return len(unique)


def make_texts(root):
    """Folders with a tokenizer: expected.json holds the ids and the classes' probabilities of every text."""
    for name in ["bert-vocab", "bert-cased-vocab", "bert-json", "roberta-pieces", "roberta-json"]:
        folder = root / f"text-{name}"
        target = folder / "model"
        shutil.rmtree(folder, ignore_errors=True)
        target.mkdir(parents=True)
        kind = name.split("-")[0]
        if kind == "bert":
            size = len(vocabulary())
            (target / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
            lower = "cased" not in name
            tokenizer = transformers.BertTokenizer(vocab=str(target / "vocab.txt"), do_lower_case=lower)
            settings = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}
        else:
            size = byte_level(target)
            tokenizer = transformers.RobertaTokenizer(vocab=str(target / "vocab.json"), merges=str(target / "merges.txt"))
            mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            settings = {"tokenizer_class": "RobertaTokenizer", "mask_token": mask}
        if name.endswith("json"):
            for file in target.iterdir():
                file.unlink()
            tokenizer.save_pretrained(target)
        else:
            (target / "tokenizer_config.json").write_text(json.dumps(settings))
        model = build(kind, "ForSequenceClassification", tiny(kind, vocab_size=size, max_position_embeddings=120))
        model.save_pretrained(target)
        answers = []
        for a, b in TEXTS:
            encoded = tokenizer(a, b, return_tensors="pt") if b is not None else tokenizer(a, return_tensors="pt")
            with torch.no_grad():
                scores = model(**encoded).logits.softmax(-1)[0].tolist()
            answers.append({"text": a, "text_pair": b, "ids": encoded["input_ids"][0].tolist(), "scores": scores})
        (folder / "texts.json").write_text(json.dumps(answers))


def make(root):
    make_texts(root)
    for name, kind, head, config, options in cases():
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        model = build(kind, head, config)
        if options.get("untied"):
            with torch.no_grad():
                out = model.get_output_embeddings()
                out.weight = torch.nn.Parameter(out.weight.clone() + 0.1 * torch.randn_like(out.weight))
        how = options.get("store")
        if how in ["f16", "bf16"]:
            model = model.to({"f16": torch.float16, "bf16": torch.bfloat16}[how])
        target = folder / "model"
        store(model, target, kind, how)
        file = config_file(target)
        saved = json.loads(file.read_text())
        if options.get("extra"):
            saved.update(gradient_checkpointing=False, my_key={"a": [1, None]}, note="kept")
        if options.get("head"):
            saved.pop("architectures")
        file.write_text(json.dumps(saved, ensure_ascii=False))
        model = model.float()
        given = dict(options.get("inputs", {}))
        inputs = inputs_of(kind, config, head, **given)
        if "length" in options:
            inputs = {k: v[..., : options["length"]].contiguous() for k, v in inputs.items()}
        expected = outputs_of(model, inputs)
        if how == "no-pooler":
            expected.pop("pooler_output")
        save_file(inputs, folder / "inputs.safetensors")
        save_file(expected, folder / "expected.safetensors")
        facts = {"class": type(model).__name__, "head": head if options.get("head") else None}
        (folder / "case.json").write_text(json.dumps(facts))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")


def check_texts(folder):
    """The tokenizer has travelled with the weights."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "converted")
    for text in json.loads((folder / "texts.json").read_text()):
        pair = [] if text["text_pair"] is None else [text["text_pair"]]
        if tokenizer(text["text"], *pair)["input_ids"] != text["ids"]:
            print(f"MISS {folder.name}: other ids for {text['text']!r}")
            return 0
    return 1


def check(root):
    """Compares every converted folder; prints one line a case that does not agree, and the number that do."""
    agree = 0
    for folder in sorted(p for p in root.iterdir() if (p / "converted").is_dir()):
        if (folder / "texts.json").is_file():
            agree += check_texts(folder)
            continue
        facts = json.loads((folder / "case.json").read_text())
        cls = getattr(transformers, facts["class"])
        try:
            model, info = cls.from_pretrained(folder / "converted", output_loading_info=True)
            left = {k: v for k, v in info.items() if k in ["missing_keys", "unexpected_keys", "mismatched_keys"] and v}
            expected = load_file(folder / "expected.safetensors")
            if "pooler_output" not in expected:
                left = {k: [n for n in v if "pooler." not in n] for k, v in left.items()}
            if any(left.values()):
                raise ValueError(f"{left}")
            before = json.loads(config_file(folder / "model").read_text())
            after = json.loads((folder / "converted/config.json").read_text())
            lost = [k for k in before if k not in after and before[k] not in (None, {})]
            if lost:
                raise ValueError(f"config.json lost {lost}")
            found = outputs_of(model.float(), load_file(folder / "inputs.safetensors"))
            for name, value in expected.items():
                worst = (found[name] - value).abs().max().item()
                if not worst <= 1e-4:
                    raise ValueError(f"{name} differs by {worst}")
            agree += 1
        except Exception as error:
            print(f"MISS {folder.name}: {type(error).__name__}: {error}")
    print(f"{agree} agree")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
