//! Replays of the golden cases, one for each `check`.

use crate::exits::{ExitRecord, Thresholds, entropy};
use crate::model::{AllExits, DeeBertForSequenceClassification};
use crate::schedule::{JointWeights, joint_loss, stage2_loss};
use crate::weights::checkpoint_of;
use bert::{EncoderInput, Labels, Mode, integers};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use serde_json::Value;
use trainer::golden::{Case, Replayed};
use trainer::{Error, Replay, Result};

/// Every check of this architecture's cases.
pub(crate) const REPLAYS: &[(&str, Replay)] = &[("stages", stages), ("exits", exits)];

/// The case's model with its weights, on the autodiff device.
fn model(case: &Case, device: &Device) -> Result<DeeBertForSequenceClassification> {
    let config: Value = case.config()?;
    let tensors = case.with_prefix("weights.");
    let checkpoint = checkpoint_of(config, &case.file, tensors, &case.file);
    let device = device.clone().autodiff();
    let loaded = checkpoint
        .and_then(|cp| DeeBertForSequenceClassification::from_checkpoint(cp, Key::new(0), &device));
    Ok(loaded?.0)
}

fn input(case: &Case) -> Result<EncoderInput> {
    Ok(EncoderInput::from_named(&case.with_prefix("input."))?)
}

fn say<const D: usize>(found: &mut Replayed, name: &str, tensor: Tensor<D>) {
    let data = tensor.without_autodiff().into_data();
    found.tensors.insert(name.to_owned(), data);
}

/// Every exit's scores, and the losses and gradients of both stages and of both joint schedules.
fn stages(case: &Case, device: &Device) -> Result<Replayed> {
    let model = model(case, device)?;
    let input = input(case)?;
    let labels = Labels::from_data(case.tensor("input.labels")?)?;
    let mode = Mode::evaluation();
    let mut found = Replayed::default();
    let all = || -> Result<AllExits> { Ok(model.forward_all_exits(&input, mode)?) };
    let none = || Error::value("the case's model", "one layer", "off-ramps to train");

    let seen = all()?;
    say(&mut found, "output.logits", seen.logits.clone());
    for (i, ramp) in seen.highway.iter().enumerate() {
        let k = i + 1;
        say(
            &mut found,
            &format!("output.highway_logits.{k}"),
            ramp.logits.clone(),
        );
        say(
            &mut found,
            &format!("mid.highway_pooled.{k}"),
            ramp.pooled.clone(),
        );
    }
    let losses = model.losses(&seen, &labels)?;
    for (i, loss) in losses.into_iter().enumerate() {
        say(&mut found, &format!("output.exit_loss.{}", i + 1), loss);
    }

    let final_scores = model.classify(&input, mode)?;
    let stage1 = model.loss(final_scores, &labels)?;
    // Stage 2 sees the encoder's states from outside, as training does.
    let features = model.valid().features(&input, mode)?;
    let ramps = model.off_ramps().forward(features, mode)?;
    let ramps = ramps.into_iter().map(|z| Ok(model.loss(z, &labels)?));
    let stage2 = stage2_loss(ramps.collect::<Result<Vec<_>>>()?);
    let joint = |weights| -> Result<Tensor<1>> {
        let losses = model.losses(&all()?, &labels)?;
        joint_loss(&losses, weights).ok_or_else(none)
    };
    let mut schedules = vec![("stage1", stage1)];
    schedules.extend(stage2.map(|loss| ("stage2", loss)));
    schedules.push(("joint", joint(JointWeights::Equal)?));
    schedules.push(("joint_linear", joint(JointWeights::Linear)?));
    for (schedule, loss) in schedules {
        say(&mut found, &format!("output.loss_{schedule}"), loss.clone());
        let grads = loss.backward();
        for (name, data) in pretrained::collect_gradients(&model, &grads) {
            found
                .tensors
                .insert(format!("grad.{schedule}.{name}"), data);
        }
    }
    Ok(found)
}

/// Where each sample leaves for each threshold, by our rule and by the published code's.
fn exits(case: &Case, device: &Device) -> Result<Replayed> {
    let model = model(case, device)?.valid();
    let input = input(case)?;
    let labels = integers("input.labels", case.tensor("input.labels")?)?;
    let thresholds: Vec<f32> = case.tensor("input.thresholds")?.iter::<f32>().collect();
    let (samples, layers) = (input.batch(), model.layers());
    let all = model.forward_all_exits(&input, Mode::evaluation())?;
    let [_, outputs] = all.logits.dims();
    let host = |z: &Tensor<2>| -> Vec<f32> { z.to_data().iter::<f32>().collect() };
    let ramps: Vec<Vec<f32>> = all.highway.iter().map(|ramp| host(&ramp.logits)).collect();
    let last = host(&all.logits);
    let row = |values: &[f32], i: usize| values[i * outputs..(i + 1) * outputs].to_vec();

    let mut found = Replayed::default();
    let mut put = |name: &str, values: Vec<f32>, shape: &[usize]| {
        let data = TensorData::new(values, shape.to_vec());
        found.tensors.insert(format!("output.{name}"), data);
    };
    let by_sample = |i: usize| ramps.iter().map(move |z| row(z, i));
    let scores: Vec<Vec<f32>> = (0..samples).flat_map(by_sample).collect();
    let entropies = scores.iter().map(|z| entropy(z)).collect();
    put(
        "highway_logits",
        scores.concat(),
        &[samples, layers, outputs],
    );
    put("highway_entropy", entropies, &[samples, layers]);
    put("final_logits", last.clone(), &[samples, outputs]);
    let entropies = (0..samples).map(|i| entropy(&row(&last, i))).collect();
    put("final_entropy", entropies, &[samples]);

    let count = thresholds.len();
    let (mut leave, mut leave_reference) = (vec![], vec![]);
    let (mut answers, mut answers_reference) = (vec![], vec![]);
    let (mut ratios, mut accuracies) = (vec![], vec![]);
    for threshold in thresholds {
        let records = model.infer(&input, &Thresholds::One(threshold))?;
        let layer = |r: &ExitRecord| r.layer as i64;
        let run: i64 = records.iter().map(layer).sum();
        ratios.push(run as f32 / (samples * layers) as f32);
        let right = records.iter().zip(&labels);
        let right = right
            .filter(|(r, label)| r.label() as i64 == **label)
            .count();
        accuracies.push(right as f32 / samples as f32);
        leave.extend(records.iter().map(layer));
        answers.extend(records.into_iter().flat_map(|r| r.logits));
        // The published code asks the off-ramp of the last layer too, which it never trains.
        for i in 0..samples {
            let sure = |z: &&Vec<f32>| entropy(&row(z, i)) < threshold;
            let early = ramps.iter().position(|z| sure(&z));
            leave_reference.push(early.map_or(layers, |l| l + 1) as i64);
            answers_reference.extend(row(early.map_or(&last, |l| &ramps[l]), i));
        }
    }
    put("runtime_ratio", ratios, &[count]);
    put("accuracy", accuracies, &[count]);
    put("exit_logits", answers, &[count, samples, outputs]);
    put(
        "exit_logits_reference",
        answers_reference,
        &[count, samples, outputs],
    );
    for (name, layers) in [
        ("exit_layer", leave),
        ("exit_layer_reference", leave_reference),
    ] {
        let data = TensorData::new(layers, [count, samples]);
        found.tensors.insert(format!("output.{name}"), data);
    }
    Ok(found)
}
