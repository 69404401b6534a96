//! The training run: two optimisers, delayed updates, documents, exact resume, recipes.
#![cfg(feature = "train")]

use burn::prelude::*;
use compressive_transformer::{
    ARCHITECTURE, CompressiveExperiment, CompressiveTransformer, MemoryModel,
};
use pretrained::NamedTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use trainer::{
    CheckpointReader, CheckpointWriter, Context, Experiment, Recipe, Sampling, Split, Step,
};

/// A tiny recipe over a generated text.
fn recipe(change: impl FnOnce(&mut Value)) -> Recipe {
    let mut value = json!({
        "architecture": "compressive-transformer",
        "seed": 3,
        "model": {
            "chunk_size": 8, "memory_size": 8, "compressed_memory_size": 6, "compression_rate": 2, "value_size": 4, "num_heads": 2,
            "num_layers": 2, "mlp_hidden_sizes": [12]
        },
        "data": { "make": { "task": "gap", "span": 8, "bytes": 4000 } },
        "training": { "steps": 8, "batch_size": 3, "optimizer": { "name": "adam", "lr": 1e-2 }, "clip": 0.5 },
        "evaluation": { "batch_size": 2, "sample": { "length": 20 } }
    });
    change(&mut value);
    Recipe::from_value(value, Path::new("tiny.json"), &[]).unwrap()
}

fn open(recipe: &Recipe) -> Box<dyn Experiment> {
    (ARCHITECTURE.open)(recipe, &Device::flex()).unwrap_or_else(|e| panic!("{e}"))
}

fn steps(experiment: &mut dyn Experiment, range: std::ops::Range<u64>) {
    let mut cx = Context::detached();
    for step in range {
        experiment
            .train_step(Step::new(3, 0, step, step), &mut cx)
            .unwrap();
    }
}

/// All weights, by upstream name.
fn weights(experiment: &dyn Experiment) -> NamedTensors {
    let dir = tempfile::tempdir().unwrap();
    experiment.export(dir.path()).unwrap();
    pretrained::read_tensors(&dir.path().join("model.safetensors")).unwrap()
}

fn differ(a: &NamedTensors, b: &NamedTensors, mark: bool) -> usize {
    let all = a
        .iter()
        .filter(|(name, _)| name.contains("conv_compressor") == mark);
    all.filter(|(name, data)| b[*name] != **data).count()
}

#[test]
fn a_resumed_run_equals_one_that_was_not_stopped() {
    let documents = tempfile::tempdir().unwrap();
    for i in 0..24 {
        let text = format!(
            "Document {i}: {}",
            "words and more words. ".repeat(1 + i % 5)
        );
        std::fs::write(documents.path().join(format!("{i:02}.txt")), text).unwrap();
    }
    let path = documents.path().to_path_buf();
    type Change = Box<dyn Fn(&mut Value)>;
    let cases: Vec<(&str, Change)> = vec![
        ("plain", Box::new(|_| {})),
        (
            "dropout",
            Box::new(|r| r["model"]["dropout_rate"] = 0.2.into()),
        ),
        (
            "accumulation, cut between two updates",
            Box::new(|r| {
                r["training"]["update_every"] =
                    json!([{ "from_step": 0, "every": 1 }, { "from_step": 2, "every": 3 }]);
            }),
        ),
        (
            "bptt",
            Box::new(|r| r["model"]["compression_loss"] = "bptt".into()),
        ),
        (
            "most used",
            Box::new(|r| {
                r["model"]["compressor"] = "most_used".into();
                r["model"]["usage"] = "running".into();
            }),
        ),
        (
            "joint clip",
            Box::new(|r| r["training"]["joint_clip"] = true.into()),
        ),
        (
            "documents",
            Box::new(move |r| {
                r["data"] = json!({ "path": path, "layout": "documents", "format": "bytes", "all_bytes": true });
            }),
        ),
        (
            "lucidrains",
            Box::new(|r| {
                r["model"] = json!({
                    "profile": "lucidrains", "dim": 8, "depth": 2, "heads": 2, "seq_len": 8, "mem_len": 8, "cmem_len": 4, "cmem_ratio": 2
                });
            }),
        ),
    ];
    for (name, change) in cases {
        let recipe = recipe(|value| change(value));
        let mut whole = open(&recipe);
        steps(&mut *whole, 0..8);
        let mut first = open(&recipe);
        steps(&mut *first, 0..4);
        let before = weights(&*first);
        let mut cx = Context::detached();
        first.evaluate(Split::Valid, &mut cx).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("checkpoint");
        CheckpointWriter::write(&folder, |to| first.save(to)).unwrap();
        let mut second = open(&recipe);
        second
            .restore(&CheckpointReader::open(&folder).unwrap())
            .unwrap();
        assert_eq!(weights(&*second), before, "{name}");
        steps(&mut *second, 4..8);
        assert_eq!(weights(&*second), weights(&*whole), "{name}");
        assert_ne!(weights(&*whole), before, "{name}: nothing was learned");
        let [a, b] = [&mut whole, &mut second].map(|e| e.evaluate(Split::Test, &mut cx).unwrap());
        assert_eq!(
            a.iter().collect::<Vec<_>>(),
            b.iter().collect::<Vec<_>>(),
            "{name}"
        );
    }
}

#[test]
fn the_compressors_have_an_optimiser_of_their_own() {
    let still = json!({ "name": "sgd", "lr": 0.0 });
    let start = weights(&*open(&recipe(|_| {})));
    let after = |change: &dyn Fn(&mut Value)| {
        let mut experiment = open(&recipe(|r| change(r)));
        steps(&mut *experiment, 0..5);
        weights(&*experiment)
    };
    let both = after(&|_| {});
    assert!(differ(&start, &both, true) == 2 && differ(&start, &both, false) > 20);
    let main = after(&|r| r["training"]["compressor_optimizer"] = still.clone());
    assert_eq!(differ(&start, &main, true), 0);
    // What the compressors are moves the model through the memories it reads, but the first updates are the same.
    assert!(differ(&start, &main, false) > 20);
    let own = after(&|r| {
        r["training"]["compressor_optimizer"] = r["training"]["optimizer"].clone();
        r["training"]["optimizer"] = still.clone();
    });
    assert_eq!(differ(&start, &own, false), 0);
    assert_eq!(differ(&start, &own, true), 2);
    let none = after(&|r| r["model"]["compression_loss"] = "none".into());
    assert_eq!(differ(&start, &none, true), 0);
    let bptt = after(&|r| r["model"]["compression_loss"] = "bptt".into());
    assert_eq!(differ(&start, &bptt, true), 2);
}

/// With plain gradient descent an update is the gradient itself, so its length shows the clip.
#[test]
fn the_two_parts_are_clipped_apart_or_together() {
    let lengths = |change: &dyn Fn(&mut Value)| {
        let recipe = recipe(|r| {
            r["training"]["optimizer"] = json!({ "name": "sgd", "lr": 1.0 });
            r["training"]["clip"] = 1e-3.into();
            // Later chunks only: before, nothing but zeros is compressed.
            r["training"]["update_every"] = json!([{ "from_step": 0, "every": 4 }]);
            change(r);
        });
        let mut experiment = open(&recipe);
        let start = weights(&*experiment);
        steps(&mut *experiment, 0..4);
        let end = weights(&*experiment);
        let part = |mark: bool| {
            let names = start
                .keys()
                .filter(|name| name.contains("conv_compressor") == mark);
            let squares = names.flat_map(|name| {
                let pairs = start[name].iter::<f64>().zip(end[name].iter::<f64>());
                pairs.map(|(a, b)| (a - b) * (a - b)).collect::<Vec<_>>()
            });
            squares.sum::<f64>().sqrt()
        };
        (part(false), part(true))
    };
    let near = |found: f64, expected: f64| (found - expected).abs() < 0.02 * expected;
    let (main, own) = lengths(&|r| r["training"]["compressor_clip"] = 1e-4.into());
    assert!(near(main, 1e-3) && near(own, 1e-4), "{main} {own}");
    let (main, own) = lengths(&|r| r["training"]["joint_clip"] = true.into());
    assert!(near((main * main + own * own).sqrt(), 1e-3), "{main} {own}");
    assert!(own < 9e-4, "{main} {own}");
}

#[test]
fn updates_wait_while_memories_move_on() {
    let recipe = recipe(|r| {
        r["training"]["update_every"] =
            json!([{ "from_step": 0, "every": 1 }, { "from_step": 2, "every": 3 }]);
    });
    let mut experiment = open(&recipe);
    let mut before = weights(&*experiment);
    let mut moved = vec![];
    for step in 0..8 {
        steps(&mut *experiment, step..step + 1);
        let now = weights(&*experiment);
        moved.push(now != before);
        before = now;
    }
    assert_eq!(moved, [true, true, false, false, true, false, false, true]);
}

#[test]
fn text_is_continued_and_every_chunk_boundary_is_crossed() {
    for profile in ["deepmind", "lucidrains"] {
        let recipe = recipe(|r| {
            if profile == "lucidrains" {
                r["model"] = json!({
                    "profile": "lucidrains", "dim": 8, "depth": 2, "heads": 2, "seq_len": 8, "mem_len": 8, "cmem_len": 4, "cmem_ratio": 2
                });
            }
            r["data"]["all_bytes"] = true.into();
        });
        let mut experiment = open(&recipe);
        steps(&mut *experiment, 0..2);
        let options = Sampling {
            length: 30,
            ..Sampling::default()
        };
        let mut all = vec![];
        for prompt in [
            "a",
            "abcdefg",
            "abcdefgh",
            "abcdefghi",
            "a longer prompt than a chunk",
        ] {
            let mut shown = String::new();
            let generator = experiment.generator().unwrap();
            let text = generator
                .generate(prompt, &options, &mut |part| shown.push_str(part))
                .unwrap();
            assert_eq!(text, shown);
            assert!(!text.is_empty());
            all.push(text);
        }
        let again = experiment
            .generator()
            .unwrap()
            .generate("a", &options, &mut |_| {})
            .unwrap();
        assert_eq!(again, all[0]);
        assert!(
            experiment
                .generator()
                .unwrap()
                .generate("", &options, &mut |_| {})
                .is_err()
        );
        let samples = experiment.samples(&mut Context::detached()).unwrap();
        assert_eq!(samples.len(), 1);
        assert!(!experiment.figures().is_empty());
    }
}

/// Greedy text is what reading the text so far from the beginning would give.
#[test]
fn generation_reads_what_training_reads() {
    let recipe = recipe(|r| r["data"]["all_bytes"] = true.into());
    let device = Device::flex();
    let keys = recipe.model.clone();
    let mut experiment =
        CompressiveExperiment::<CompressiveTransformer>::open(&recipe, keys, &device).unwrap();
    steps(&mut experiment, 0..6);
    let options = Sampling {
        length: 25,
        temperature: 0.0,
        ..Sampling::default()
    };
    let prompt = "0123456789";
    let text = experiment
        .generator()
        .unwrap()
        .generate(prompt, &options, &mut |_| {})
        .unwrap();
    let vocabulary = experiment.corpus().vocabulary.clone();
    let model = experiment.model().clone();
    let mut ids = vocabulary.encode_prompt(prompt).unwrap();
    let mut written = vec![];
    for _ in 0..25 {
        let mut state = model.state(1, model.memory_sizes(), false).unwrap();
        let mut last = vec![];
        for chunk in ids.chunks(8) {
            let chunk: Vec<i32> = chunk.iter().map(|id| *id as i32).collect();
            let n = chunk.len();
            let tokens = Tensor::<2, Int>::from_data(TensorData::new(chunk, [1, n]), &device);
            let output = model
                .forward(tokens, state, compressive_transformer::Mode::evaluation())
                .unwrap();
            state = output.state;
            let scores = model.log_probabilities(output.hidden.narrow(1, n - 1, 1));
            last = scores.into_data().iter::<f32>().collect();
        }
        let best = (0..last.len())
            .max_by(|&a, &b| last[a].total_cmp(&last[b]))
            .unwrap();
        ids.push(best as u32);
        written.push(best as u32);
    }
    assert_eq!(
        text,
        String::from_utf8_lossy(&vocabulary.decode_bytes(&written).unwrap())
    );
}

#[test]
fn evaluation_counts_words_and_takes_larger_memories() {
    let recipe = recipe(|r| {
        r["evaluation"]["word_perplexity"] = true.into();
        r["evaluation"]["words"] = json!({ "valid": 50, "test": 40 });
        r["evaluation"]["eval_memory"] = json!({ "memory_size": 10, "compressed_memory_size": 12 });
    });
    let keys = recipe.model.clone();
    let mut experiment =
        CompressiveExperiment::<CompressiveTransformer>::open(&recipe, keys, &Device::flex())
            .unwrap();
    let mut cx = Context::detached();
    let metrics = experiment.evaluate(Split::Test, &mut cx).unwrap();
    let total = metrics.get("loss").unwrap() * experiment.corpus().test.tokens.len() as f64;
    let per_word = metrics.get("word_perplexity").unwrap().ln() * 40.0;
    assert!((per_word / total - 1.0).abs() < 1e-9, "{per_word} {total}");
    let train = experiment.evaluate(Split::Train, &mut cx).unwrap();
    assert!(train.get("word_perplexity").is_some());
}

#[test]
fn wrong_recipes_are_answered_with_the_place() {
    type Change = Box<dyn Fn(&mut Value)>;
    let cases: Vec<(Change, &str)> = vec![
        (
            Box::new(|r| r["model"]["chunk_sise"] = 3.into()),
            "chunk_size",
        ),
        (
            Box::new(|r| r["model"]["num_heads"] = "two".into()),
            "model.num_heads",
        ),
        (
            Box::new(|r| r["model"]["profile"] = "google".into()),
            "model.profile",
        ),
        (
            Box::new(|r| r["model"]["vocab_size"] = 2.into()),
            "token ids",
        ),
        (
            Box::new(|r| r["model"]["compression_rate"] = 0.into()),
            "model.compression_rate",
        ),
        (
            Box::new(|r| r["training"]["bptt_unroll"] = 1.into()),
            "training.bptt_unroll",
        ),
        (
            Box::new(|r| r["training"]["batch_size"] = 0.into()),
            "training.batch_size",
        ),
        (
            Box::new(|r| r["training"]["batch_size"] = 100_000.into()),
            "batch",
        ),
        (
            Box::new(|r| r["training"]["update_every"] = json!([{ "from_step": 0, "every": 0 }])),
            "training.update_every.0.every",
        ),
        (
            Box::new(|r| {
                r["training"]["joint_clip"] = true.into();
                r["training"]["compressor_clip"] = 1.0.into();
            }),
            "training.compressor_clip",
        ),
        (
            Box::new(|r| r["evaluation"]["batch_size"] = 0.into()),
            "evaluation.batch_size",
        ),
        (
            Box::new(|r| r["evaluation"]["batch_size"] = 100_000.into()),
            "evaluation.batch_size",
        ),
        (
            Box::new(|r| {
                r["model"]["compressed_memory_size"] = 0.into();
                r["evaluation"]["eval_memory"] =
                    json!({ "memory_size": 8, "compressed_memory_size": 8 });
            }),
            "no compressor",
        ),
    ];
    for (change, part) in cases {
        let recipe = recipe(|r| change(r));
        let message = match (ARCHITECTURE.open)(&recipe, &Device::flex()) {
            Ok(_) => panic!("{part} was accepted"),
            Err(e) => e.to_string(),
        };
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

fn recipes() -> Vec<PathBuf> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/compressive-transformer");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Every shipped recipe, cut down in layers and rows and over a generated text, opens.
#[test]
fn shipped_recipes_open() {
    let files = recipes();
    assert!(files.len() >= 6);
    let mut papers = 0;
    for file in files {
        let mut recipe = Recipe::load(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
        papers += usize::from(file.to_string_lossy().contains("paper-"));
        let lucid = recipe.model["profile"] == "lucidrains";
        let depth = if lucid { "depth" } else { "num_layers" };
        recipe.model[depth] = 1.into();
        if lucid {
            recipe.model["memory_layers"] = json!([1]);
        }
        if recipe.model["adapt_io"] == true {
            recipe.model["vocab_size"] = 267_735.into();
        }
        recipe.training["batch_size"] = 1.into();
        recipe.data = json!({ "make": { "task": "gap", "span": 8, "bytes": 40_000 } });
        let experiment = open(&recipe);
        assert!(experiment.stages()[0].steps > 0);
        assert!(experiment.parameters().unwrap() > 0);
        assert!(experiment.summary().iter().any(|(name, _)| name == "reach"));
    }
    assert_eq!(papers, 3);
}

/// The recipe of PG-19 over its layout: a folder of books for each split, and the list of them, which is no book.
#[test]
fn books_are_read_one_by_one() {
    let data = tempfile::tempdir().unwrap();
    let mut words = [0; 2];
    for (s, (split, books)) in [("train", 5), ("validation", 2), ("test", 3)]
        .into_iter()
        .enumerate()
    {
        std::fs::create_dir(data.path().join(split)).unwrap();
        for i in 0..books {
            let text = format!(
                "Book {i}.\n\n{}",
                "Whaling in the south, é. ".repeat(20 + 7 * i)
            );
            if s > 0 {
                words[s - 1] += text.split_ascii_whitespace().count();
            }
            std::fs::write(
                data.path().join(split).join(format!("{}.txt", 100 + i)),
                text,
            )
            .unwrap();
        }
    }
    let list = "100,A book,1850,http://www.gutenberg.org/ebooks/100\n";
    std::fs::write(data.path().join("metadata.csv"), list).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../configs/compressive-transformer/paper-pg19.json");
    let mut recipe = Recipe::load(&file, &[]).unwrap();
    recipe.data["path"] = data.path().to_string_lossy().into();
    for (key, value) in [
        ("num_layers", json!(1)),
        ("value_size", json!(4)),
        ("num_heads", json!(2)),
        ("mlp_hidden_sizes", json!([8])),
        ("chunk_size", json!(16)),
        ("memory_size", json!(16)),
        ("compressed_memory_size", json!(16)),
    ] {
        recipe.model[key] = value;
    }
    recipe.training["batch_size"] = 2.into();
    recipe.evaluation["words"] = Value::Null;
    let keys = recipe.model.clone();
    let device = Device::flex();
    let mut experiment =
        CompressiveExperiment::<CompressiveTransformer>::open(&recipe, keys, &device).unwrap();
    let corpus = experiment.corpus();
    let books = [&corpus.train, &corpus.valid, &corpus.test].map(|s| s.documents.len());
    assert_eq!(books, [5, 2, 3]);
    let tokens = corpus.test.tokens.len() as f64;
    steps(&mut experiment, 0..3);
    let metrics = experiment
        .evaluate(Split::Test, &mut Context::detached())
        .unwrap();
    let per_word = metrics.get("loss").unwrap() * tokens / words[1] as f64;
    let found = metrics.get("word_perplexity").unwrap().ln();
    assert!((found / per_word - 1.0).abs() < 1e-9, "{found} {per_word}");
}

#[test]
fn a_folder_answers_and_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut experiment = open(&recipe(|_| {}));
    steps(&mut *experiment, 0..2);
    experiment.export(dir.path()).unwrap();
    let mut folder =
        (ARCHITECTURE.load)(dir.path(), &Device::flex()).unwrap_or_else(|e| panic!("{e}"));
    let facts = folder.describe();
    assert!(
        facts
            .iter()
            .any(|(name, value)| name == "reach" && value == "40 tokens"),
        "{facts:?}"
    );
    let tokens = TensorData::new(vec![0i64, 1, 2, 3, 0, 1, 2, 3, 0, 1], [1, 10]);
    let inputs = NamedTensors::from([("tokens".to_owned(), tokens)]);
    let out = folder.forward(inputs).unwrap();
    assert_eq!(out["logprob.0"].shape()[1], 8);
    assert_eq!(out["nll.1"].shape().to_vec(), [1, 1]);
    let wrong =
        NamedTensors::from([("tokens".to_owned(), TensorData::new(vec![9_999i64], [1, 1]))]);
    assert!(
        folder
            .forward(wrong)
            .unwrap_err()
            .to_string()
            .contains("9999")
    );
    assert!(folder.forward(NamedTensors::new()).is_err());
    let config: Value = pretrained::read_json(&dir.path().join("config.json")).unwrap();
    assert!((ARCHITECTURE.claims)(&config, &[]));
    assert!(!(ARCHITECTURE.claims)(&json!({}), &["key_pe".to_owned()]));
    let loaded = experiment.load_model(dir.path());
    loaded.unwrap();
}

/// A small comparison runs through and reports what it should; set `COMPRESSIVE_BENCH=full` for the one in the documentation.
#[test]
fn the_demonstration_runs() {
    let quick = std::env::var("COMPRESSIVE_BENCH").as_deref() != Ok("full");
    let options = trainer::BenchOptions { quick, seed: 1 };
    let bench = ARCHITECTURE.bench.unwrap();
    let figures = bench(&options, &Device::flex(), &mut Context::detached()).unwrap();
    assert_eq!(figures.len(), 5);
    let trainer::Figure::Table(table) = &figures[0] else {
        panic!("the first figure is no table");
    };
    for row in &table.rows {
        println!("{}", row.join(" | "));
    }
    if !quick {
        println!("{:#?}", &figures[1..]);
    }
    assert_eq!(table.rows.len(), 5);
    for row in &table.rows {
        let bits: f64 = row[1].parse().unwrap();
        assert!(bits > 1.0 && bits < 6.0, "{row:?}");
    }
}
