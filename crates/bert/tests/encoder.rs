//! Layers, masks, slices, positions and losses, on every backend.

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use bert::{
    Activation, BertConfig, BertForMaskedLm, BertForSequenceClassification, BertLayer, BertModel,
    EncoderCall, EncoderInput, IGNORED, Labels, LayerCall, LayerWidth, Mode, PositionRule,
    ProblemType, classification_loss, cross_entropy, span_loss,
};
use burn::prelude::*;
use common::{assert_close, devices, normal};
use core_attn::random::Key;

fn tiny() -> BertConfig {
    BertConfig {
        vocab_size: 50,
        hidden_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        intermediate_size: 40,
        max_position_embeddings: 20,
        initializer_range: 0.3,
        ..BertConfig::default()
    }
}

fn all_finite<const D: usize>(x: Tensor<D>) -> bool {
    x.into_data().iter::<f32>().all(|v| v.is_finite())
}

#[test]
fn the_watched_and_the_ordinary_attention_agree_with_gradients_and_dropout() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let layer = BertLayer::new(&tiny(), Key::new(1), &device).unwrap();
        let input = EncoderInput::new(vec![1; 2 * 7], 2, 7).unwrap();
        let mask: Vec<bool> = (0..14).map(|i| i != 6 && i != 7).collect();
        let bias = input
            .with_attention_mask(mask)
            .unwrap()
            .attention_bias(&device);
        let run = |attentions: bool| {
            let x = normal("x", [2, 7, 24], &device).require_grad();
            let call = LayerCall {
                bias: bias.as_ref(),
                mode: Mode::training(Key::new(5)),
                attentions,
                scores: attentions,
                ..LayerCall::default()
            };
            let out = layer.forward(x.clone(), &call).unwrap();
            let weight = normal("w", [2, 7, 24], &device.clone().without_autodiff());
            let grads = (out.hidden.clone() * weight).sum().backward();
            let query = layer.attention.self_attention.query.weight.val();
            (
                out.hidden.inner(),
                x.grad(&grads).unwrap(),
                query.grad(&grads).unwrap(),
                out.attention,
            )
        };
        let (y, dx, dq, plain) = run(false);
        let (y2, dx2, dq2, watched) = run(true);
        assert!(plain.attentions.is_none() && plain.scores.is_none());
        assert_close(&format!("{name} output"), y, y2, 1e-5, 1e-4);
        assert_close(&format!("{name} d input"), dx, dx2, 1e-5, 1e-4);
        assert_close(&format!("{name} d query"), dq, dq2, 1e-5, 1e-4);
        let weights = watched.attentions.unwrap();
        let hidden: f32 = weights.narrow(3, 6, 1).narrow(0, 0, 1).sum().into_scalar();
        assert_eq!(hidden, 0.0, "{name}: a hidden key has no weight");
    }
}

#[test]
fn a_row_that_sees_nothing_weighs_equally_and_stays_finite() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let layer = BertLayer::new(&tiny(), Key::new(1), &device).unwrap();
        let bias = Tensor::<4>::full(
            [1, 1, 1, 5],
            bert::HIDDEN_SCORE,
            &device.clone().without_autodiff(),
        );
        for attentions in [false, true] {
            let x = normal("x", [1, 5, 24], &device).require_grad();
            let call = LayerCall {
                bias: Some(&bias),
                attentions,
                ..LayerCall::default()
            };
            let out = layer.forward(x.clone(), &call).unwrap();
            let grads = out.hidden.clone().sum().backward();
            assert!(
                all_finite(out.hidden) && all_finite(x.grad(&grads).unwrap()),
                "{name}"
            );
            // The context is the plain mean of the values.
            let values = layer.attention.self_attention.value.forward(x);
            let mean = values.mean_dim(1).expand([1, 5, 24]);
            assert_close(
                name,
                out.attention.context.inner(),
                mean.inner(),
                1e-5,
                1e-4,
            );
            if let Some(weights) = out.attention.attentions {
                let even = Tensor::full([1, 3, 5, 5], 0.2, &device);
                assert_close(name, weights, even, 1e-6, 1e-6);
            }
        }
    }
}

#[test]
fn padding_reaches_no_real_token() {
    for (name, device) in devices() {
        let model = BertModel::new(&tiny(), true, Key::new(2), &device).unwrap();
        let run = |junk: i64| {
            let ids = vec![2, 9, 8, 3, 2, 7, junk, junk];
            let mask = vec![true, true, true, true, true, true, false, false];
            let input = EncoderInput::new(ids, 2, 4)
                .unwrap()
                .with_attention_mask(mask)
                .unwrap();
            model.forward(&input, &EncoderCall::default()).unwrap()
        };
        let (a, b) = (run(0), run(44));
        let real = |x: Tensor<3>| x.narrow(0, 1, 1).narrow(1, 0, 2);
        let short = EncoderInput::new(vec![2, 7], 1, 2).unwrap();
        let alone = model.forward(&short, &EncoderCall::default()).unwrap();
        assert_close(
            name,
            real(a.last_hidden_state.clone()),
            real(b.last_hidden_state),
            1e-6,
            1e-5,
        );
        assert_close(
            name,
            real(a.last_hidden_state),
            alone.last_hidden_state,
            1e-5,
            1e-4,
        );
    }
}

#[test]
fn a_slice_is_the_smaller_layer_and_gives_gradients_to_the_whole_parameter() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let layer = BertLayer::new(&tiny(), Key::new(1), &device).unwrap();
        // Two of three heads, half of the neurons.
        let width = LayerWidth {
            heads: 2,
            qkv: 16,
            intermediate: 20,
        };
        let x = normal("x", [1, 6, 24], &device);
        let call = LayerCall {
            width: Some(width),
            ..LayerCall::default()
        };
        let out = layer.forward(x.clone(), &call).unwrap();
        // The same by hiding the third head and the other neurons.
        let mut cut = layer.clone();
        let second = cut.feed_forward.output.dense.weight.val();
        let kept = second.clone().narrow(0, 0, 20);
        let zero = second.narrow(0, 20, 20).zeros_like();
        cut.feed_forward.output.dense.weight =
            core_attn::init::from_tensor(Tensor::cat(vec![kept, zero], 0));
        let heads = Tensor::<1>::from_floats([1.0, 1.0, 0.0], &device);
        let call = LayerCall {
            head_mask: Some(&heads),
            ..LayerCall::default()
        };
        let masked = cut.forward(x, &call).unwrap();
        assert_close(
            name,
            out.hidden.clone().inner(),
            masked.hidden.inner(),
            1e-5,
            1e-4,
        );
        let weight = normal("w", [1, 6, 24], &device.clone().without_autodiff());
        let grads = (out.hidden * weight).sum().backward();
        let query = layer
            .attention
            .self_attention
            .query
            .weight
            .val()
            .grad(&grads)
            .unwrap();
        assert_eq!(query.dims(), [24, 24]);
        let outside: f32 = query
            .clone()
            .slice([0..24, 16..24])
            .abs()
            .sum()
            .into_scalar();
        let inside: f32 = query.slice([0..24, 0..16]).abs().sum().into_scalar();
        assert!(outside == 0.0 && inside > 0.0, "{name}");
    }
}

#[test]
fn an_attention_width_of_its_own_runs() {
    let config = BertConfig {
        qkv_size: Some(12),
        ..tiny()
    };
    let device = Device::flex();
    let model = BertModel::new(&config, true, Key::new(1), &device).unwrap();
    let input = EncoderInput::new(vec![1, 2, 3], 1, 3).unwrap();
    let out = model.forward(&input, &EncoderCall::default()).unwrap();
    assert_eq!(out.last_hidden_state.dims(), [1, 3, 24]);
    assert_eq!(out.pooler_output.unwrap().dims(), [1, 24]);
}

#[test]
fn roberta_counts_real_tokens() {
    let config = BertConfig {
        model_type: Some("roberta".into()),
        pad_token_id: Some(1),
        type_vocab_size: 1,
        ..tiny()
    };
    let device = Device::flex();
    let model = BertModel::new(&config, false, Key::new(1), &device).unwrap();
    assert_eq!(
        model.embeddings.positions,
        PositionRule::RealTokens { pad: 1 }
    );
    let left = EncoderInput::new(vec![1, 1, 0, 9, 2], 1, 5).unwrap();
    let given = left.clone().with_positions(vec![1, 1, 2, 3, 4]).unwrap();
    let a = model.embeddings.lookup(&left).unwrap();
    let b = model.embeddings.lookup(&given).unwrap();
    assert_close("positions", a, b, 0.0, 0.0);
    // 18 real tokens end at position 19 of 20; one more does not fit.
    let long = |n| EncoderInput::new(vec![5; n], 1, n).unwrap();
    assert!(model.forward(&long(18), &EncoderCall::default()).is_ok());
    let error = model
        .forward(&long(19), &EncoderCall::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("max_position_embeddings is 20"),
        "{error}"
    );
}

#[test]
fn nothing_to_learn_gives_a_loss_of_zero_and_no_nan() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let model = BertForMaskedLm::new(&tiny(), Key::new(1), &device).unwrap();
        let input = EncoderInput::new(vec![1, 2, 3], 1, 3).unwrap();
        let (_, body) = model.forward(&input, &EncoderCall::default()).unwrap();
        let loss = model.loss(&body, &[IGNORED; 3]).unwrap();
        assert_eq!(loss.clone().into_scalar::<f32>(), 0.0, "{name}");
        let grads = loss.backward();
        let words = model.bert.embeddings.word_embeddings.val().grad(&grads);
        assert!(
            words.is_none_or(|g| g.abs().sum().into_scalar::<f32>() == 0.0),
            "{name}"
        );
        let logits = normal("l", [2, 4], &device);
        let span = span_loss(logits.clone(), logits, &[9, 4], &[7, 4]).unwrap();
        assert_eq!(span.into_scalar::<f32>(), 0.0, "{name}");
    }
}

#[test]
fn the_losses_are_what_their_names_say() {
    let device = Device::flex();
    let logits = Tensor::<2>::from_floats([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], &device);
    let marks = Labels::Values(vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let expected = -(sigmoid(1.0).ln()
        + (1.0 - sigmoid(-2.0)).ln()
        + sigmoid(0.5).ln()
        + (1.0 - sigmoid(0.0)).ln()
        + sigmoid(3.0).ln()
        + (1.0 - sigmoid(-1.0)).ln())
        / 6.0;
    let found: f32 = classification_loss(logits.clone(), &marks, None)
        .unwrap()
        .into_scalar();
    assert!(
        (f64::from(found) - expected).abs() < 1e-6,
        "{found} {expected}"
    );
    let regression = Some(ProblemType::Regression);
    let found: f32 = classification_loss(logits.clone(), &marks, regression)
        .unwrap()
        .into_scalar();
    assert!((found - (0.0 + 4.0 + 0.25 + 0.0 + 4.0 + 1.0) / 6.0).abs() < 1e-6);
    let classes = Labels::Classes(vec![0, IGNORED]);
    let found: f32 = classification_loss(logits.clone(), &classes, None)
        .unwrap()
        .into_scalar();
    let total = 1f64.exp() + (-2f64).exp() + 0.5f64.exp();
    assert!((f64::from(found) + (1f64.exp() / total).ln()).abs() < 1e-6);
    // Far logits stay finite.
    let far = Tensor::<2>::from_floats([[200.0, -200.0]], &device);
    let found = classification_loss(far, &Labels::Values(vec![0.0, 1.0]), None).unwrap();
    assert!((found.into_scalar::<f32>() - 200.0).abs() < 1e-3);
}

#[test]
fn wrong_labels_and_inputs_are_named() {
    let device = Device::flex();
    let model = BertForSequenceClassification::new(&tiny(), Key::new(1), &device).unwrap();
    let logits = Tensor::<2>::zeros([2, 2], &device);
    let say = |e: bert::Error| e.to_string();
    let loss = |labels| model.loss(logits.clone(), &labels).unwrap_err();
    assert!(
        say(loss(Labels::Classes(vec![0, 2]))).contains("labels[1] is 2: expected a class in 0..2")
    );
    assert!(say(loss(Labels::Classes(vec![0]))).contains("one for each of 2 rows"));
    assert!(say(loss(Labels::Values(vec![0.5]))).contains("expected [2, 2]"));
    let single = Some(ProblemType::SingleLabelClassification);
    let error = classification_loss(logits.clone(), &Labels::Values(vec![0.5, 1.0]), single);
    assert!(say(error.unwrap_err()).contains("expected integer classes"));
    assert!(say(cross_entropy(logits, &[0, -1], IGNORED).unwrap_err()).contains("labels[1] is -1"));

    let run =
        |input: EncoderInput| say(model.forward(&input, &EncoderCall::default()).unwrap_err());
    let ids = |v: Vec<i64>| {
        let n = v.len();
        EncoderInput::new(v, 1, n).unwrap()
    };
    assert!(run(ids(vec![1, 50])).contains("input_ids[0, 1] is 50: expected an id in 0..50"));
    assert!(run(ids(vec![-1])).contains("input_ids[0, 0] is -1"));
    assert!(run(ids(vec![1; 21])).contains("21 tokens long"));
    let types = ids(vec![1, 2]).with_token_types(vec![0, 2]).unwrap();
    assert!(run(types).contains("token_type_ids[0, 1] is 2"));
    let blind = ids(vec![1, 2])
        .with_attention_mask(vec![false, false])
        .unwrap();
    assert!(run(blind).contains("attention_mask[0] is all zero"));
    let positions = ids(vec![1, 2]).with_positions(vec![0, 20]).unwrap();
    assert!(run(positions).contains("position_ids[0, 1] is 20"));
    assert!(ids(vec![1, 2]).with_attention_mask(vec![true]).is_err());
    assert!(EncoderInput::new(vec![], 0, 0).is_err());
}

#[test]
fn configurations_that_mean_another_model_are_refused() {
    let refuse = |key: &str, value: serde_json::Value| {
        let mut json = serde_json::json!({ "model_type": "bert" });
        json[key] = value;
        let error = BertConfig::from_value(json, "config.json".as_ref()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(key), "{text}");
    };
    refuse("position_embedding_type", "relative_key".into());
    refuse("is_decoder", true.into());
    refuse("add_cross_attention", true.into());
    refuse("pruned_heads", serde_json::json!({ "0": [1] }));
    refuse("hidden_act", "mish".into());
    refuse("model_type", "albert".into());
    refuse("hidden_size", 770.into());
    refuse("qkv_size", 100.into());
    refuse("hidden_dropout_prob", 1.5.into());
    refuse("vocab_size", "many".into());
    refuse("vocab_size", 0.into());
    let harmless = serde_json::json!({
        "model_type": "bert", "transformers_version": "5.23.0", "use_cache": true, "dtype": "float32",
        "position_embedding_type": "absolute", "is_decoder": false, "pruned_heads": {},
        "gradient_checkpointing": false, "classifier_dropout": null,
    });
    let config = BertConfig::from_value(harmless, "config.json".as_ref()).unwrap();
    assert_eq!(config.extra["transformers_version"], "5.23.0");
    for name in [
        "gelu",
        "gelu_new",
        "gelu_pytorch_tanh",
        "gelu_fast",
        "relu",
        "tanh",
        "silu",
        "swish",
    ] {
        assert!(Activation::from_name(name).is_ok(), "{name}");
    }
}

#[test]
fn activations_are_their_formulas() {
    for (name, device) in devices() {
        let x = Tensor::<1>::from_floats([-3.0, -0.5, 0.0, 0.7, 4.0], &device);
        let host = [-3.0f64, -0.5, 0.0, 0.7, 4.0];
        let check = |activation: Activation, f: &dyn Fn(f64) -> f64| {
            let found = activation.apply(x.clone()).into_data();
            for (found, x) in found.iter::<f64>().zip(host) {
                assert!(
                    (found - f(x)).abs() < 1e-5,
                    "{name} {activation:?}: {found} for {x}"
                );
            }
        };
        let tanh = |x: f64| {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        };
        check(Activation::GeluTanh, &tanh);
        check(Activation::Relu, &|x| x.max(0.0));
        check(Activation::Tanh, &f64::tanh);
        check(Activation::Silu, &|x| x / (1.0 + (-x).exp()));
        // The exact form, from tables of the normal distribution.
        let phi = [
            0.001_349_898_0,
            0.308_537_538_7,
            0.5,
            0.758_036_347_8,
            0.999_968_328_8,
        ];
        let found = Activation::Gelu.apply(x.clone()).into_data();
        for ((found, x), phi) in found.iter::<f64>().zip(host).zip(phi) {
            assert!((found - x * phi).abs() < 1e-5, "{name}: {found} for {x}");
        }
    }
}
