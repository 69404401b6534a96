//! Updates against the formulas in 64-bit loops, and the exactness of saved states.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Net, devices};
use serde_json::{Value, json};
use trainer::*;

const STEPS: u64 = 7;

/// The gradient of element `i` of the weights at update `k`; some are large, some small, signs change.
fn gradient(k: u64, i: usize) -> f64 {
    let key = core_attn::random::Key::new(3).fold(k);
    key.normal(i as u64) * [1.0, 0.01, 5.0][i % 3]
}

fn learner(
    seed: u64,
    config: &Value,
    device: &Device,
    clip: Option<f64>,
    ema: Option<f64>,
) -> Result<Learner<Net>> {
    let optimizer = serde_json::from_value(config.clone()).map_err(Error::other)?;
    let schedule =
        serde_json::from_value(json!({ "name": "constant", "warmup": 3 })).map_err(Error::other)?;
    Learner::new(
        Net::new(seed, &device.clone().autodiff()),
        &optimizer,
        &schedule,
        clip,
        ema,
    )
}

/// One update with the given gradients of the weights; the bias takes no part unless `bias` is set.
fn update(learner: &mut Learner<Net>, k: u64, device: &Device, bias: bool) -> UpdateInfo {
    let values: Vec<f32> = (0..12).map(|i| gradient(k, i) as f32).collect();
    let direction = TensorData::new(values, [4, 3]);
    let (info, _) = learner
        .step(k, vec![()], |net, ()| {
            let direction = Tensor::from_data(direction.clone(), &device.clone().autodiff());
            let mut loss = (net.hidden.weight.val() * direction).sum();
            if bias {
                loss = loss + net.bias.val().square().sum();
            }
            Ok((loss, ()))
        })
        .expect("an update");
    info
}

fn weights(net: &Net) -> Vec<f64> {
    let data = net.hidden.weight.val().into_data();
    data.try_to_vec::<f32>()
        .expect("floats")
        .into_iter()
        .map(f64::from)
        .collect()
}

fn close(found: &[f64], expected: &[f64], what: &str) {
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= 2e-6 + 2e-6 * e.abs(),
            "{what}, element {i}: {f} instead of {e}"
        );
    }
}

/// The formulas, element by element. `w` and the two slots change in place; `k` counts from 1.
type Formula = fn(w: &mut [f64], g: &[f64], slots: &mut [Vec<f64>; 2], lr: f64, k: i32);

const FORMULAS: [(&str, &str, Formula); 9] = [
    (
        "sgd",
        r#"{ "name": "sgd", "lr": 0.07, "weight_decay": 0.1 }"#,
        |w, g, _, lr, _| {
            for i in 0..w.len() {
                w[i] -= lr * (g[i] + 0.1 * w[i]);
            }
        },
    ),
    (
        "sgd with momentum and dampening",
        r#"{ "name": "sgd", "lr": 0.07, "momentum": 0.9, "dampening": 0.3 }"#,
        |w, g, [b, _], lr, k| {
            for i in 0..w.len() {
                b[i] = if k == 1 {
                    g[i]
                } else {
                    0.9 * b[i] + 0.7 * g[i]
                };
                w[i] -= lr * b[i];
            }
        },
    ),
    (
        "sgd with Nesterov's momentum",
        r#"{ "name": "sgd", "lr": 0.07, "momentum": 0.9, "nesterov": true, "weight_decay": 0.01 }"#,
        |w, g, [b, _], lr, k| {
            for i in 0..w.len() {
                let g = g[i] + 0.01 * w[i];
                b[i] = if k == 1 { g } else { 0.9 * b[i] + g };
                w[i] -= lr * (g + 0.9 * b[i]);
            }
        },
    ),
    (
        "adam",
        r#"{ "name": "adam", "lr": 0.07, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.2 }"#,
        |w, g, [m, v], lr, k| {
            for i in 0..w.len() {
                let g = g[i] + 0.2 * w[i];
                m[i] = 0.8 * m[i] + 0.2 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let (mean, square) = (
                    m[i] / (1.0 - 0.8f64.powi(k)),
                    v[i] / (1.0 - 0.95f64.powi(k)),
                );
                w[i] -= lr * mean / (square.sqrt() + 1e-6);
            }
        },
    ),
    (
        "adamw",
        r#"{ "name": "adamw", "lr": 0.07, "weight_decay": 0.2 }"#,
        |w, g, [m, v], lr, k| {
            for i in 0..w.len() {
                w[i] *= 1.0 - lr * 0.2;
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                let (mean, square) = (
                    m[i] / (1.0 - 0.9f64.powi(k)),
                    v[i] / (1.0 - 0.999f64.powi(k)),
                );
                w[i] -= lr * mean / (square.sqrt() + 1e-8);
            }
        },
    ),
    (
        "adamw without bias correction",
        r#"{ "name": "adamw", "lr": 0.07, "eps": 1e-6, "bias_correction": false }"#,
        |w, g, [m, v], lr, _| {
            for i in 0..w.len() {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                w[i] -= lr * (m[i] / (v[i].sqrt() + 1e-6) + 0.01 * w[i]);
            }
        },
    ),
    (
        "adagrad",
        r#"{ "name": "adagrad", "lr": 0.07, "lr_decay": 0.5, "weight_decay": 0.1, "initial_accumulator": 0.25 }"#,
        |w, g, [s, _], lr, k| {
            for i in 0..w.len() {
                let g = g[i] + 0.1 * w[i];
                s[i] = if k == 1 { 0.25 } else { s[i] } + g * g;
                w[i] -= lr / (1.0 + f64::from(k - 1) * 0.5) * g / (s[i].sqrt() + 1e-10);
            }
        },
    ),
    (
        "adagrad with a clipped step",
        r#"{ "name": "adagrad-grad-clip", "lr": 0.07, "grad_clip": 9.0 }"#,
        |w, g, [s, _], lr, _| {
            let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
            let step = if norm > 9.0 {
                lr * 9.0 / (norm + 1e-10)
            } else {
                lr
            };
            for i in 0..w.len() {
                s[i] += g[i] * g[i];
                w[i] -= step * g[i] / (s[i].sqrt() + 1e-10);
            }
        },
    ),
    (
        "adagrad without a clip",
        r#"{ "name": "adagrad-grad-clip", "lr": 0.07 }"#,
        |w, g, [s, _], lr, _| {
            for i in 0..w.len() {
                s[i] += g[i] * g[i];
                w[i] -= lr * g[i] / (s[i].sqrt() + 1e-10);
            }
        },
    ),
];

#[test]
fn every_optimiser_follows_its_formula() {
    for device in devices() {
        for (name, config, formula) in FORMULAS {
            let config = serde_json::from_str(config).expect("JSON");
            let mut learner = learner(1, &config, &device, None, None).expect(name);
            let mut expected = weights(learner.model());
            let bias = learner.model().bias.val().into_data();
            let mut slots = [vec![0.0; 12], vec![0.0; 12]];
            let mut above = 0;
            for k in 1..=STEPS {
                let gradients: Vec<f64> =
                    (0..12).map(|i| f64::from(gradient(k, i) as f32)).collect();
                above += u64::from(gradients.iter().map(|g| g * g).sum::<f64>().sqrt() > 9.0);
                let lr = 0.07 * (k as f64 / 3.0).min(1.0);
                formula(&mut expected, &gradients, &mut slots, lr, k as i32);
                let info = update(&mut learner, k, &device, false);
                assert_eq!(info.lr, lr);
                close(
                    &weights(learner.model()),
                    &expected,
                    &format!("{name}, update {k}"),
                );
            }
            assert!(
                above > 0 && above < STEPS,
                "the clip is met and not met: {above}"
            );
            assert_eq!(
                learner.model().bias.val().into_data(),
                bias,
                "no gradient, no update"
            );
        }
    }
}

#[test]
fn a_saved_state_goes_on_bit_for_bit() {
    for device in devices() {
        for (name, config, _) in FORMULAS {
            let config = serde_json::from_str(config).expect("JSON");
            let dir = tempfile::tempdir().expect("a temporary folder");
            let path = dir.path().join("checkpoint");
            let mut whole = learner(1, &config, &device, Some(2.0), Some(0.9)).expect(name);
            for k in 1..=4 {
                // The bias starts late, so that the counts of the parameters differ.
                update(&mut whole, k, &device, k > 2);
            }
            CheckpointWriter::write(&path, |to| whole.save("net", to)).expect("saved");
            let mut second = learner(99, &config, &device, Some(2.0), Some(0.9)).expect(name);
            second
                .restore("net", &CheckpointReader::open(&path).expect("whole"))
                .expect("restored");
            for k in 5..=9 {
                update(&mut whole, k, &device, true);
                update(&mut second, k, &device, true);
            }
            let bytes = |net: &Net| {
                let mut bytes = net.hidden.weight.val().into_data().as_bytes().to_vec();
                bytes.extend(net.bias.val().into_data().as_bytes());
                bytes
            };
            assert_eq!(bytes(whole.model()), bytes(second.model()), "{name}");
            let averages = (whole.evaluation_model(), second.evaluation_model());
            assert_eq!(bytes(&averages.0), bytes(&averages.1), "{name}");
            assert_ne!(
                bytes(&averages.0),
                bytes(whole.model()),
                "the average is its own"
            );
        }
    }
}

#[test]
fn states_that_do_not_fit_are_refused_with_the_reason() {
    let device = &devices()[0];
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("checkpoint");
    let adam = json!({ "name": "adam", "lr": 0.1 });
    let mut first = learner(1, &adam, device, None, None).expect("a learner");
    update(&mut first, 1, device, true);
    CheckpointWriter::write(&path, |to| {
        first.save("net", to)?;
        to.tensors(
            "other",
            pretrained::NamedTensors::from([("bias".to_owned(), TensorData::from([1f32; 4]))]),
        )?;
        to.tensors("other.optimizer", Default::default())?;
        to.json(
            "other.optimizer",
            &json!({ "optimizer": "adam", "updates": {} }),
        )
    })
    .expect("saved");
    let from = CheckpointReader::open(&path).expect("whole");
    let sgd = json!({ "name": "sgd", "lr": 0.1 });
    let mut sgd = learner(1, &sgd, device, None, None).expect("a learner");
    let error = sgd
        .restore("net", &from)
        .expect_err("another optimiser")
        .to_string();
    assert!(
        error.contains("written by the optimiser adam, this is sgd"),
        "{error}"
    );
    let error = first
        .restore("other", &from)
        .expect_err("another model")
        .to_string();
    assert!(
        error.contains("hidden.weight is missing, expected [4, 3]"),
        "{error}"
    );
    assert!(error.contains("bias is [4], expected [3]"), "{error}");
    let mut averaged = learner(1, &adam, device, None, Some(0.9)).expect("a learner");
    assert!(
        averaged.restore("net", &from).is_err(),
        "there are no averages to restore"
    );
    assert!(first.restore("absent", &from).is_err());
}

#[test]
fn shards_are_averaged_and_updated_once() {
    for device in devices() {
        let config = json!({ "name": "sgd", "lr": 1.0 });
        let run = |shards: Vec<f32>| {
            let mut learner = learner(1, &config, &device, None, None).expect("a learner");
            let (_, losses) = learner
                .step(3, shards, |net, x| {
                    let loss = (net.hidden.weight.val() * x).square().sum();
                    Ok((loss.clone(), loss.into_scalar::<f32>()))
                })
                .expect("an update");
            (weights(learner.model()), losses)
        };
        let start = weights(&Net::new(1, &device));
        let (found, losses) = run(vec![0.1, 0.3, 0.5]);
        // The gradient of the mean over shards of Σ(x·w)² is 2w·mean(x²).
        let mean = (0.01 + 0.09 + 0.25) / 3.0;
        let expected: Vec<f64> = start.iter().map(|w| w - 2.0 * w * mean).collect();
        close(&found, &expected, "three shards");
        assert_eq!(losses.len(), 3);
        assert!(
            losses[0] < losses[1] && losses[1] < losses[2],
            "in order, each undivided"
        );
    }
}

#[test]
fn the_global_norm_is_torchs() {
    for device in devices() {
        let config = json!({ "name": "sgd", "lr": 3.0 });
        for clip in [0.25, 1e6] {
            let mut learner = learner(1, &config, &device, Some(clip), None).expect("a learner");
            let start = weights(learner.model());
            let bias = learner.model().bias.val().into_data();
            let bias: Vec<f64> = bias
                .try_to_vec::<f32>()
                .expect("floats")
                .into_iter()
                .map(f64::from)
                .collect();
            let gradients: Vec<f64> = (0..12).map(|i| gradient(1, i)).collect();
            let squares = gradients.iter().map(|g| g * g).sum::<f64>();
            let norm = (squares + bias.iter().map(|b| 4.0 * b * b).sum::<f64>()).sqrt();
            let info = update(&mut learner, 1, &device, true);
            let found = f64::from(info.grad_norm.expect("a norm").into_scalar::<f32>());
            assert!(
                (found - norm).abs() < 1e-5 * norm,
                "{found} instead of {norm}"
            );
            let factor = (clip / (norm + 1e-6)).min(1.0);
            assert_eq!(factor < 1.0, clip < 1.0);
            let expected: Vec<f64> = start
                .iter()
                .zip(&gradients)
                .map(|(w, g)| w - factor * g)
                .collect();
            close(&weights(learner.model()), &expected, "clipped");
        }
    }
}

#[test]
fn groups_match_paths_and_the_last_match_wins() {
    let device = &devices()[0];
    let config = json!({ "name": "sgd", "lr": 3.0, "weight_decay": 0.5, "groups": [
        { "match": "weight", "weight_decay": 0.0 }, { "match": r"^hidden\.", "lr_scale": 0.5 }, { "match": "bias$", "weight_decay": 0.0 },
    ] });
    let mut learner = learner(1, &config, device, None, None).expect("a learner");
    let start = weights(learner.model());
    update(&mut learner, 1, device, true);
    // The second group matches last: it scales the rate and leaves the decay at its default.
    let expected: Vec<f64> = (0..12)
        .map(|i| start[i] - 0.5 * (gradient(1, i) + 0.5 * start[i]))
        .collect();
    close(&weights(learner.model()), &expected, "scaled and decayed");
    let unmatched = json!({ "name": "sgd", "lr": 1.0, "groups": [{ "match": "LayerNorm" }] });
    let error = self::learner(1, &unmatched, device, None, None)
        .expect_err("no match")
        .to_string();
    assert!(
        error.contains("groups.0.match") && error.contains("hidden.weight"),
        "{error}"
    );
    let broken = json!({ "name": "sgd", "lr": 1.0, "groups": [{ "match": "(" }] });
    assert!(self::learner(1, &broken, device, None, None).is_err());
}

#[test]
fn averaged_weights_follow_their_formula() {
    for device in devices() {
        let config = json!({ "name": "sgd", "lr": 0.1 });
        let mut learner = learner(1, &config, &device, None, Some(0.75)).expect("a learner");
        let mut expected = weights(learner.model());
        for k in 1..=4 {
            update(&mut learner, k, &device, false);
            let new = weights(learner.model());
            expected
                .iter_mut()
                .zip(new)
                .for_each(|(e, w)| *e = 0.75 * *e + 0.25 * w);
        }
        let evaluated = learner.evaluation_model();
        close(&weights(&evaluated), &expected, "averaged");
        assert!(!evaluated.hidden.weight.val().is_autodiff());
        assert!(
            learner.model().hidden.weight.val().is_require_grad(),
            "training goes on"
        );
    }
}

#[test]
fn losses_that_cannot_be_differentiated_are_errors() {
    let device = &devices()[0];
    let config = json!({ "name": "sgd", "lr": 0.1 });
    let mut learner = learner(1, &config, device, None, None).expect("a learner");
    let before = weights(learner.model());
    let errors = [
        learner
            .step(1, vec![()], |net, ()| Ok((net.bias.val(), ())))
            .expect_err("three losses"),
        learner
            .step(1, vec![()], |_, ()| {
                Ok((Tensor::<1>::zeros([1], device), ()))
            })
            .expect_err("a constant"),
        learner
            .step(1, Vec::<()>::new(), |net, ()| {
                Ok((net.bias.val().sum(), ()))
            })
            .expect_err("no shard"),
    ];
    for (error, part) in errors
        .iter()
        .zip(["3 elements", "no parameter", "nothing to update"])
    {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(weights(learner.model()), before);
    assert!(self::learner(1, &config, device, Some(0.0), None).is_err());
    assert!(self::learner(1, &config, device, None, Some(1.0)).is_err());
}

#[test]
fn gradients_can_be_gathered_stored_and_split() {
    let device = &devices()[0];
    let config = json!({ "name": "sgd", "lr": 1.0 });
    let mut learner = learner(1, &config, device, None, None).expect("a learner");
    let of = |learner: &Learner<Net>, x: f32| {
        let net = learner.model();
        let loss = (net.hidden.weight.val() * x).sum() + net.bias.val().sum();
        learner.gradients(loss).expect("gradients")
    };
    let mut sum = of(&learner, 1.0);
    let stored = of(&learner, 2.0).to_tensors();
    sum.add(ModuleGradients::from_tensors(stored, device).expect("stored gradients"))
        .expect("added");
    let (hidden, rest) = sum.scale(0.5).split(|path| path.starts_with("hidden."));
    assert_eq!(rest.paths().collect::<Vec<_>>(), ["bias"]);
    let start = weights(learner.model());
    learner.apply(3, hidden).expect("an update");
    let expected: Vec<f64> = start.iter().map(|w| w - 1.5).collect();
    close(&weights(learner.model()), &expected, "half the sum");
    let foreign =
        pretrained::NamedTensors::from([("bias".to_owned(), TensorData::from([1f32; 7]))]);
    let foreign = ModuleGradients::from_tensors(foreign, device).expect("a row");
    assert!(learner.apply(4, foreign).is_err());
}
