//! Lengths, batches, padding and dropout.

mod common;

use bert::{EncoderInput, Mode};
use burn::prelude::*;
use common::{assert_close, devices, hidden, input, lra, small};
use core_attn::random::Key;
use nystromformer::{
    LandmarkPolicy, LraClassifier, LraConfig, NystromformerConfig, NystromformerForMaskedLm,
    NystromformerModel, PoolingMode,
};

#[test]
fn policies() {
    for (backend, device) in devices() {
        let policy = |landmark_policy| NystromformerConfig {
            landmark_policy,
            ..small()
        };
        let model = |p| -> NystromformerModel { policy(p).init(Key::new(5), &device).unwrap() };
        let strict = model(LandmarkPolicy::Strict);
        let uneven = model(LandmarkPolicy::Uneven);
        let masked = model(LandmarkPolicy::Masked);
        let at_length = input(2, 24, 40);
        assert_close(
            backend,
            hidden(&strict, &at_length),
            hidden(&uneven, &at_length),
            0.0,
            0.0,
        );
        // The published code would mix samples here: 3 · 8 = 24.
        let message = strict
            .forward(&input(3, 8, 40), Mode::evaluation())
            .unwrap_err()
            .to_string();
        assert!(message.contains('8') && message.contains("24"), "{message}");
        for length in [1, 5, 6, 7, 23, 29] {
            let input = input(2, length, 40);
            for model in [&uneven, &masked] {
                let out = hidden(model, &input);
                assert!(
                    out.into_data().iter::<f32>().all(f32::is_finite),
                    "{backend} {length}"
                );
            }
        }
        // Without padding in landmarks, left padding changes nothing but the positions, which are given here.
        let exact = NystromformerConfig {
            inv_coeff_init_option: true,
            ..policy(LandmarkPolicy::Masked)
        };
        let masked: NystromformerModel = exact.init(Key::new(5), &device).unwrap();
        let short = input(1, 18, 40);
        let mut ids = vec![1; 6];
        ids.extend(short.input_ids());
        let mut positions = vec![2; 6];
        positions.extend(2..20);
        let padded = EncoderInput::new(ids, 1, 24)
            .and_then(|i| i.with_positions(positions))
            .and_then(|i| i.with_attention_mask((0..24).map(|t| t >= 6).collect()))
            .unwrap();
        let out = hidden(&masked, &padded);
        assert!(
            out.clone().into_data().iter::<f32>().all(f32::is_finite),
            "{backend}"
        );
        // Six landmarks: three rows each without padding, four with; the same rows but other runs. What padding holds
        // reaches nothing.
        let mut other = padded.input_ids().to_vec();
        other[..6].fill(7);
        let other = EncoderInput::new(other, 1, 24)
            .and_then(|i| i.with_positions(padded.position_ids().unwrap().to_vec()))
            .and_then(|i| i.with_attention_mask((0..24).map(|t| t >= 6).collect()))
            .unwrap();
        let other = hidden(&masked, &other);
        assert_close(
            backend,
            out.narrow(1, 6, 18),
            other.narrow(1, 6, 18),
            1e-6,
            1e-6,
        );
    }
}

#[test]
fn exact_start_makes_samples_independent_of_their_batch() {
    for (backend, device) in devices() {
        let both = input(2, 24, 40);
        let alone = EncoderInput::new(both.input_ids()[..24].to_vec(), 1, 24).unwrap();
        let exact = NystromformerConfig {
            inv_coeff_init_option: true,
            ..small()
        };
        let model: NystromformerModel = exact.init(Key::new(5), &device).unwrap();
        let together = hidden(&model, &both).narrow(0, 0, 1);
        assert_close(backend, together, hidden(&model, &alone), 1e-5, 1e-5);
    }
}

#[test]
fn constant_input_and_dropout_stay_finite() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        let model: NystromformerForMaskedLm = small().init(Key::new(5), &device).unwrap();
        let same = EncoderInput::new(vec![7; 48], 2, 24).unwrap();
        let mode = Mode::training(Key::new(1));
        let body = model.nystromformer.forward(&same, mode).unwrap();
        let loss = model.loss(body, &[3; 48]).unwrap();
        let grads = pretrained::collect_gradients(&model, &loss.backward());
        for (name, grad) in grads {
            assert!(grad.iter::<f32>().all(f32::is_finite), "{backend} {name}");
        }
        // Dropout is a function of the key.
        let run = |seed| hidden_of(&model, &same, seed);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}

fn hidden_of(model: &NystromformerForMaskedLm, input: &EncoderInput, seed: u64) -> TensorData {
    let mode = Mode::training(Key::new(seed));
    model
        .nystromformer
        .forward(input, mode)
        .unwrap()
        .into_data()
}

#[test]
fn a_class_token_takes_the_place_of_the_last() {
    let (_, device) = devices().remove(0);
    let config = LraConfig {
        pooling_mode: PoolingMode::Cls,
        ..lra()
    };
    let model = LraClassifier::new(&config, Key::new(1), &device).unwrap();
    let first = input(2, 20, 14);
    let (scores, _) = model.forward(&first, Mode::evaluation()).unwrap();
    let mut ids = first.input_ids().to_vec();
    ids[19] = 3 + (ids[19] + 1) % 9;
    let other = EncoderInput::new(ids, 2, 20).unwrap();
    let (again, _) = model.forward(&other, Mode::evaluation()).unwrap();
    assert_close("last token", scores, again, 0.0, 0.0);
}
