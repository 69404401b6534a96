//! Leaving early: batches and single samples answer alike, whatever is padded, pooled or compacted; and what is refused.

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use bert::{BertConfig, EncoderInput, Mode, ProblemType};
use burn::prelude::*;
use common::devices;
use core_attn::random::Key;
use deebert::{
    DeeBertConfig, DeeBertForSequenceClassification, ExitConfig, ExitRecord, ExitRule, ExitTable,
    InferOptions, OffRampPooling, Thresholds, entropy,
};

fn config(variant: &str, layers: usize, labels: usize) -> DeeBertConfig {
    let roberta = variant == "roberta";
    DeeBertConfig {
        bert: BertConfig {
            model_type: Some(variant.into()),
            vocab_size: 40,
            hidden_size: 24,
            num_hidden_layers: layers,
            num_attention_heads: 3,
            intermediate_size: 40,
            max_position_embeddings: 20,
            type_vocab_size: if roberta { 1 } else { 2 },
            pad_token_id: Some(usize::from(roberta)),
            initializer_range: 0.4,
            num_labels: Some(labels),
            ..BertConfig::default()
        },
        ..DeeBertConfig::default()
    }
}

fn pooled(mut config: DeeBertConfig, pooling: OffRampPooling) -> DeeBertConfig {
    config.deebert.off_ramp_pooling = pooling;
    config
}

fn model(config: &DeeBertConfig, device: &Device) -> DeeBertForSequenceClassification {
    config.init(Key::new(5), device).unwrap()
}

/// Rows of different lengths, padded to one more than the longest; the second is padded in front, the third has a hole.
fn batch() -> EncoderInput {
    let key = Key::new(9);
    let (n, length) = (9, 13);
    let lengths = [12, 5, 9, 1, 12, 3, 7, 2, 11];
    let mut mask = vec![false; n * length];
    for (i, own) in lengths.iter().enumerate() {
        let from = if i == 1 { 4 } else { 0 };
        mask[i * length + from..i * length + from + own].fill(true);
    }
    mask[2 * length + 4] = false;
    let ids = (0..(n * length) as u64).map(|i| key.below(i, 40) as i64);
    let types = (0..n * length).map(|i| i64::from(i % length > 5));
    EncoderInput::new(ids.collect(), n, length)
        .and_then(|b| {
            b.with_attention_mask(mask)?
                .with_token_types(types.collect())
        })
        .unwrap()
}

fn row(batch: &EncoderInput, i: usize) -> EncoderInput {
    let n = batch.length();
    let part = i * n..(i + 1) * n;
    let mask = batch.attention_mask().unwrap()[part.clone()].to_vec();
    let types = batch.token_type_ids().unwrap()[part.clone()].to_vec();
    EncoderInput::new(batch.input_ids()[part].to_vec(), 1, n)
        .and_then(|b| b.with_attention_mask(mask)?.with_token_types(types))
        .unwrap()
}

fn table(model: &DeeBertForSequenceClassification, batch: &EncoderInput) -> ExitTable {
    let all = model.forward_all_exits(batch, Mode::evaluation()).unwrap();
    let [_, labels] = all.logits.dims();
    let scores: Tensor<3> = Tensor::stack(all.answers().cloned().collect(), 1);
    ExitTable::new(model.layers(), labels, scores.into_data().iter().collect())
}

#[track_caller]
fn same(found: &ExitRecord, layer: usize, logits: &[f32], what: &str) {
    assert_eq!(found.layer, layer, "{what}");
    for (a, b) in found.logits.iter().zip(logits) {
        assert!((a - b).abs() < 1e-5, "{what}: {a} {b}");
    }
}

#[test]
fn batches_and_single_samples_answer_alike() {
    let batch = batch();
    for (backend, device) in devices() {
        for (variant, pooling) in [
            ("bert", OffRampPooling::Cls),
            ("bert", OffRampPooling::Mean),
            ("roberta", OffRampPooling::Mean),
        ] {
            let model = model(&pooled(config(variant, 5, 3), pooling), &device);
            let table = table(&model, &batch);
            let mut layers_seen = std::collections::BTreeSet::new();
            for threshold in table.candidates(9) {
                // Where an entropy is this near, rounding may decide.
                let near =
                    |i: usize| (1..5).any(|l| (table.entropy(i, l) - threshold).abs() < 1e-4);
                let layers = table.exit_layers(&[threshold; 5]);
                let what = format!("{backend} {variant} {pooling:?} {threshold}");
                for (fraction, every) in [(0.0, 1), (0.25, 1), (1.0, 1), (0.0, 2), (0.5, 9)] {
                    let mut options = InferOptions::new(ExitRule::Entropy(threshold.into()));
                    options.compact_min_fraction = fraction;
                    options.check_every = every;
                    let found = model.infer_with(&batch, &options).unwrap();
                    assert_eq!(found.len(), batch.batch());
                    for i in (0..batch.batch()).filter(|i| !near(*i)) {
                        let what = format!("{what} row {i}, {fraction}, {every}");
                        same(&found[i], layers[i], table.logits(i, layers[i]), &what);
                        assert_eq!(found[i].entropies.len(), layers[i], "{what}");
                        let last = entropy(&found[i].logits);
                        assert!((found[i].entropy() - last).abs() < 1e-6, "{what}");
                        layers_seen.insert(layers[i]);
                    }
                }
                for i in (0..batch.batch()).filter(|i| !near(*i)) {
                    let single = model.infer(&row(&batch, i), &threshold.into()).unwrap();
                    let what = format!("{what} row {i} alone");
                    same(&single[0], layers[i], table.logits(i, layers[i]), &what);
                }
            }
            assert!(
                layers_seen.len() >= 3,
                "{variant} {pooling:?}: {layers_seen:?}"
            );
        }
    }
}

#[test]
fn padding_decides_nothing() {
    let batch = batch();
    let other: Vec<i64> = batch
        .input_ids()
        .iter()
        .zip(batch.attention_mask().unwrap())
        .map(|(id, real)| if *real { *id } else { 39 - id })
        .collect();
    let other = EncoderInput::new(other, batch.batch(), batch.length())
        .and_then(|b| b.with_attention_mask(batch.attention_mask().unwrap().to_vec()))
        .and_then(|b| b.with_token_types(batch.token_type_ids().unwrap().to_vec()))
        .unwrap();
    let device = Device::flex();
    let model = model(&pooled(config("bert", 4, 2), OffRampPooling::Mean), &device);
    let options = InferOptions::new(ExitRule::Layer(2));
    let (a, b) = (
        model.infer_with(&batch, &options),
        model.infer_with(&other, &options),
    );
    for (i, (a, b)) in a.unwrap().iter().zip(b.unwrap()).enumerate() {
        same(a, 2, &b.logits, &format!("row {i}"));
    }
}

#[test]
fn zero_never_leaves_and_much_always_does() {
    let batch = batch();
    for (_, device) in devices() {
        let mut model = model(&config("bert", 4, 2), &device);
        let layers = |model: &DeeBertForSequenceClassification, t: Thresholds| -> Vec<usize> {
            let found = model.infer(&batch, &t).unwrap();
            found.iter().map(|record| record.layer).collect()
        };
        assert_eq!(layers(&model, 0.0.into()), [4; 9]);
        assert_eq!(layers(&model, (-1.0).into()), [4; 9]);
        assert_eq!(layers(&model, 0.7.into()), [1; 9]);
        assert_eq!(layers(&model, f32::INFINITY.into()), [1; 9]);
        let third = Thresholds::PerLayer(vec![0.0, 0.0, 0.7, 0.0]);
        assert_eq!(layers(&model, third), [3; 9]);
        let last = Thresholds::PerLayer(vec![0.0, 0.0, 0.0, 0.7]);
        assert_eq!(layers(&model, last), [4; 9]);
        // An off-ramp so sure that its entropy is exactly 0: still not below 0, but below anything else.
        let bias = Tensor::<1>::from_floats([1e4, -1e4], &device);
        model.highway[1].classifier.bias = core_attn::init::from_tensor(bias);
        let found = model.infer(&batch, &1e-30.into()).unwrap();
        assert!(
            found
                .iter()
                .all(|r| r.layer == 2 && r.entropy() == 0.0 && r.label() == 0)
        );
        assert_eq!(layers(&model, 0.0.into()), [4; 9]);
    }
}

#[test]
fn a_fixed_layer_serves_regressions_too() {
    let batch = batch();
    for (_, device) in devices() {
        let model = model(&config("bert", 3, 1), &device);
        let all = model.forward_all_exits(&batch, Mode::evaluation()).unwrap();
        for (i, exit) in all.answers().enumerate() {
            let rule = ExitRule::Layer(i + 1);
            let found = model.infer_with(&batch, &InferOptions::new(rule)).unwrap();
            let expected: Vec<f32> = exit.to_data().iter().collect();
            for (record, expected) in found.iter().zip(expected) {
                same(record, i + 1, &[expected], &format!("layer {}", i + 1));
            }
        }
        let error = model.infer(&batch, &0.5.into()).unwrap_err().to_string();
        assert!(
            error.contains("num_labels is 1") && error.contains("ExitRule::Layer"),
            "{error}"
        );
    }
}

#[test]
fn one_layer_has_nothing_to_leave_by() {
    let model = model(&config("bert", 1, 2), &Device::flex());
    let batch = batch();
    assert!(model.off_ramps().exits.is_empty());
    let found = model.infer(&batch, &f32::INFINITY.into()).unwrap();
    let all = model.forward_all_exits(&batch, Mode::evaluation()).unwrap();
    let scores: Vec<f32> = all.logits.into_data().iter().collect();
    for (record, scores) in found.iter().zip(scores.chunks(2)) {
        same(record, 1, scores, "the final classifier");
    }
}

#[test]
fn the_encoders_scores_are_those_of_the_plain_classifier() {
    for (_, device) in devices() {
        for variant in ["bert", "roberta"] {
            let model = model(&config(variant, 3, 4), &device);
            let all = model
                .forward_all_exits(&batch(), Mode::evaluation())
                .unwrap();
            let plain = model.classify(&batch(), Mode::evaluation()).unwrap();
            common::assert_close("logits", plain, all.logits, 1e-6, 1e-6);
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let device = Device::flex();
    let model = model(&config("bert", 4, 2), &device);
    let batch = batch();
    let fails = |options: InferOptions, part: &str| {
        let error = model.infer_with(&batch, &options).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    };
    let entropy = |t: Vec<f32>| InferOptions::new(ExitRule::Entropy(Thresholds::PerLayer(t)));
    fails(entropy(vec![0.1; 3]), "4, one for each layer");
    fails(entropy(vec![0.1, f32::NAN, 0.1, 0.1]), "layer 2");
    fails(InferOptions::new(ExitRule::Entropy(f32::NAN.into())), "NaN");
    for layer in [0, 5] {
        fails(InferOptions::new(ExitRule::Layer(layer)), "1..=4");
    }
    let with = |fraction, every| InferOptions {
        compact_min_fraction: fraction,
        check_every: every,
        ..InferOptions::new(ExitRule::Layer(1))
    };
    fails(with(1.5, 1), "compact_min_fraction");
    fails(with(f64::NAN, 1), "compact_min_fraction");
    fails(with(0.0, 0), "check_every");

    let wrong = |input: bert::Result<EncoderInput>, part: &str| {
        let found = input.and_then(|input| model.infer(&input, &0.5.into()));
        let error = found.unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    };
    wrong(EncoderInput::new(vec![], 0, 5), "at least one sequence");
    wrong(
        EncoderInput::new(vec![1, 40], 1, 2),
        "input_ids[0, 1] is 40",
    );
    wrong(
        EncoderInput::new(vec![1; 21], 1, 21),
        "max_position_embeddings is 20",
    );
    let blind = EncoderInput::new(vec![1; 4], 2, 2);
    let blind = blind.and_then(|b| b.with_attention_mask(vec![true, true, false, false]));
    wrong(blind, "attention_mask[1]");
    // Ids are looked at where they are cut off as well.
    let padded = EncoderInput::new(vec![1, 99], 1, 2);
    let padded = padded.and_then(|b| b.with_attention_mask(vec![true, false]));
    wrong(padded, "input_ids[0, 1] is 99");

    let mut several = config("bert", 2, 3);
    several.bert.problem_type = Some(ProblemType::MultiLabelClassification);
    let several = several.init(Key::new(1), &device).unwrap();
    let error = several.infer(&batch, &0.5.into()).unwrap_err().to_string();
    assert!(error.contains("multi_label_classification"), "{error}");
    let exits = ExitConfig {
        thresholds: Some(Thresholds::PerLayer(vec![0.5; 3])),
        ..ExitConfig::default()
    };
    let error = model.with_exits(exits).unwrap_err().to_string();
    assert!(error.contains("a list of 3"), "{error}");
}
