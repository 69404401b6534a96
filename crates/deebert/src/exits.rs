//! Leaving early (section 3.3 of the paper): one sample or a batch, with the same answers.

use crate::config::DeeBertConfig;
use crate::model::DeeBertForSequenceClassification;
use crate::ramp::ramp_mode;
use bert::{EncoderInput, HIDDEN_SCORE, LayerCall, Mode, Result, config_error, indices};
use burn::prelude::*;
use serde::{Deserialize, Serialize};

/// Entropies in nats below which a sample leaves. 0 and less: never; above `ln(labels)`: at layer 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Thresholds {
    /// The same for every off-ramp.
    One(f32),
    /// One for each of the `L` layers; the last is never used.
    PerLayer(Vec<f32>),
}

impl From<f32> for Thresholds {
    fn from(threshold: f32) -> Self {
        Self::One(threshold)
    }
}

impl Thresholds {
    /// One threshold for each of `layers` layers.
    ///
    /// # Errors
    /// A list of another length, and NaN.
    pub fn resolve(&self, layers: usize) -> Result<Vec<f32>> {
        let all = match self {
            Self::One(threshold) => vec![*threshold; layers],
            Self::PerLayer(list) => list.clone(),
        };
        if all.len() != layers {
            return Err(config_error(
                "thresholds",
                format!("a list of {}", all.len()),
                format!("expected one number, or {layers}, one for each layer"),
            ));
        }
        if let Some(layer) = all.iter().position(|t| t.is_nan()) {
            return Err(config_error(
                "thresholds",
                format!("NaN for layer {}", layer + 1),
                "expected an entropy in nats",
            ));
        }
        Ok(all)
    }
}

/// The entropy of a softmax over `logits`, in nats. Exactly 0 where all probability is on one class, however large the scores:
/// each term is `−p·ln p` with `ln p` from the log-softmax, never from `p`. NaN where a score is not finite.
pub fn entropy(logits: &[f32]) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = || logits.iter().map(|z| f64::from(*z) - f64::from(top));
    let log_sum = shifted().map(f64::exp).sum::<f64>().ln();
    let entropy: f64 = shifted().map(|z| (log_sum - z) * (z - log_sum).exp()).sum();
    entropy as f32
}

/// When a sample leaves.
#[derive(Debug, Clone, PartialEq)]
pub enum ExitRule {
    /// At the first off-ramp whose entropy is below its threshold.
    Entropy(Thresholds),
    /// All at the exit of this layer, counted from 1; `L` is the final classifier.
    Layer(usize),
}

/// How a batch is run through the exits. No choice here changes an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct InferOptions {
    /// When a sample leaves.
    pub rule: ExitRule,
    /// Rows that have their answer are taken out of the batch once they make up this share of it. 0 takes them out at once;
    /// on a GPU a quarter saves copies.
    pub compact_min_fraction: f64,
    /// Layers between two looks at the entropies, each of which waits for the device. More than 1 pays on a GPU.
    pub check_every: usize,
}

impl InferOptions {
    /// Leaves by this rule, takes rows out at once and looks at every layer.
    pub fn new(rule: ExitRule) -> Self {
        Self {
            rule,
            compact_min_fraction: 0.0,
            check_every: 1,
        }
    }

    fn check(&self, config: &DeeBertConfig) -> Result<Plan> {
        if !(0.0..=1.0).contains(&self.compact_min_fraction) {
            return Err(config_error(
                "compact_min_fraction",
                self.compact_min_fraction,
                "expected a share in [0, 1]",
            ));
        }
        if self.check_every == 0 {
            return Err(config_error("check_every", 0, "expected at least 1 layer"));
        }
        let layers = config.layers();
        match &self.rule {
            ExitRule::Entropy(thresholds) => {
                config.check_entropy()?;
                Ok(Plan::Entropy(thresholds.resolve(layers)?))
            }
            ExitRule::Layer(layer) if (1..=layers).contains(layer) => Ok(Plan::Layer(*layer)),
            ExitRule::Layer(layer) => Err(config_error(
                "output_layer",
                layer,
                format!("expected a layer in 1..={layers}"),
            )),
        }
    }
}

/// A rule that fits the model.
enum Plan {
    Entropy(Vec<f32>),
    Layer(usize),
}

/// How one sample left.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitRecord {
    /// The layer, counted from 1; `L` where the final classifier answered.
    pub layer: usize,
    /// The scores of the exit that answered.
    pub logits: Vec<f32>,
    /// The entropies in nats of the exits that were asked, the one that answered last.
    pub entropies: Vec<f32>,
}

impl ExitRecord {
    /// The entropy of the answer, in nats.
    pub fn entropy(&self) -> f32 {
        self.entropies.last().copied().unwrap_or(f32::NAN)
    }

    /// The class with the highest score, the first of equals.
    pub fn label(&self) -> usize {
        let better = |best, i| match self.logits[i] > self.logits[best] {
            true => i,
            false => best,
        };
        (0..self.logits.len()).reduce(better).unwrap_or(0)
    }
}

/// The rows of a batch that are still on their way.
struct Active {
    /// Their places in the batch.
    rows: Vec<usize>,
    /// Their real tokens, `[rows, length]`; `None` where all are.
    mask: Option<Vec<bool>>,
    length: usize,
}

impl Active {
    fn new(input: &EncoderInput) -> Self {
        Self {
            rows: (0..input.batch()).collect(),
            mask: input.attention_mask().map(<[bool]>::to_vec),
            length: input.length(),
        }
    }

    fn padding(&self) -> Option<&[bool]> {
        self.mask.as_deref().filter(|mask| mask.contains(&false))
    }

    /// As [`EncoderInput::attention_bias`].
    fn bias(&self, device: &Device) -> Option<Tensor<4>> {
        let score = |&real: &bool| if real { 0.0 } else { HIDDEN_SCORE as f32 };
        let values: Vec<f32> = self.padding()?.iter().map(score).collect();
        let data = TensorData::new(values, [self.rows.len(), 1, 1, self.length]);
        Some(Tensor::from_data(data, device))
    }

    /// As [`EncoderInput::mask_tensor`].
    fn tokens(&self, device: &Device) -> Option<Tensor<2>> {
        let values: Vec<f32> = self.padding()?.iter().map(|m| f32::from(*m)).collect();
        let data = TensorData::new(values, [self.rows.len(), self.length]);
        Some(Tensor::from_data(data, device))
    }

    /// Goes on with the rows in these places of `x` `[rows, length, hidden]`, without the columns behind the longest of them.
    fn keep(&mut self, places: &[usize], x: Tensor<3>) -> Tensor<3> {
        let index: Vec<i64> = places.iter().map(|i| *i as i64).collect();
        let x = x.clone().select(0, indices(&index, &x.device()));
        self.rows = places.iter().map(|i| self.rows[*i]).collect();
        let Some(mask) = &self.mask else {
            return x;
        };
        let rows: Vec<&[bool]> = mask.chunks(self.length).collect();
        let rows: Vec<&[bool]> = places.iter().map(|i| rows[*i]).collect();
        let length = longest(rows.iter().copied());
        self.mask = Some(rows.iter().flat_map(|row| row[..length].to_vec()).collect());
        self.length = length;
        x.narrow(1, 0, length)
    }
}

/// Columns up to the last real token of any row. Columns in front stay: the first token's place is the sequence's.
fn longest<'a>(rows: impl Iterator<Item = &'a [bool]>) -> usize {
    let last = |row: &[bool]| row.iter().rposition(|real| *real).map_or(1, |i| i + 1);
    rows.map(last).max().unwrap_or(1)
}

/// The batch without the columns that are padding in every row.
fn trimmed(input: &EncoderInput) -> Result<Option<EncoderInput>> {
    let Some(mask) = input.attention_mask() else {
        return Ok(None);
    };
    let (n, length) = (input.batch(), input.length());
    let short = longest(mask.chunks(length));
    if short == length {
        return Ok(None);
    }
    fn cut<T: Copy>(values: &[T], length: usize, short: usize) -> Vec<T> {
        let rows = values.chunks(length);
        rows.flat_map(|row| row[..short].to_vec()).collect()
    }
    let mut new = EncoderInput::new(cut(input.input_ids(), length, short), n, short)?
        .with_attention_mask(cut(mask, length, short))?;
    if let Some(types) = input.token_type_ids() {
        new = new.with_token_types(cut(types, length, short))?;
    }
    if let Some(positions) = input.position_ids() {
        new = new.with_positions(cut(positions, length, short))?;
    }
    Ok(Some(new))
}

impl DeeBertForSequenceClassification {
    /// Answers each sample of a batch at the first exit whose entropy is below its threshold; the order is the batch's.
    ///
    /// Rows that have left are taken out of the batch, and the sequences are cut to the longest that remain.
    ///
    /// # Errors
    /// Thresholds that do not fit, a model whose outputs have no entropy, and an input as in [`bert::BertModel::forward`].
    pub fn infer(&self, input: &EncoderInput, thresholds: &Thresholds) -> Result<Vec<ExitRecord>> {
        let rule = ExitRule::Entropy(thresholds.clone());
        self.infer_with(input, &InferOptions::new(rule))
    }

    /// [`infer`](Self::infer) with every choice open.
    ///
    /// # Errors
    /// As [`infer`](Self::infer), and a layer or an option out of range.
    pub fn infer_with(
        &self,
        input: &EncoderInput,
        options: &InferOptions,
    ) -> Result<Vec<ExitRecord>> {
        let plan = options.check(self.config())?;
        let input = self.prepared(input)?;
        // Padding that is cut off below is checked as well; its length is not.
        input.check(self.bert.embeddings.tables())?;
        let short = trimmed(&input)?;
        let input = short.as_ref().unwrap_or(&input);
        let mode = Mode::evaluation();
        let layers = self.layers();
        let mut x = self.bert.embeddings.forward(input, mode)?;
        let device = x.device().without_autodiff();
        let mut active = Active::new(input);
        let mut answers = Answers::new(input.batch());
        let mut bias = active.bias(&device);
        // Scores of off-ramps that are still on the device, with their layers.
        let mut waiting: Vec<(usize, Tensor<2>)> = vec![];
        for (i, layer) in self.bert.encoder.layers.iter().enumerate() {
            let number = i + 1;
            let call = LayerCall {
                bias: bias.as_ref(),
                ..LayerCall::default()
            };
            x = layer.forward(x, &call)?.hidden;
            let asked = match &plan {
                Plan::Entropy(_) => number < layers,
                Plan::Layer(layer) => number == *layer && number < layers,
            };
            if !asked {
                continue;
            }
            let vector = self.ramp_input(x.clone(), active.tokens(&device).as_ref());
            let scores = self.highway[i].forward(vector, ramp_mode(mode, i))?.logits;
            let thresholds = match &plan {
                Plan::Layer(_) => {
                    answers.take(&active.rows, number, rows_of(scores));
                    return Ok(answers.finish());
                }
                Plan::Entropy(thresholds) => thresholds,
            };
            waiting.push((number, scores));
            if waiting.len() < options.check_every && number + 1 < layers {
                continue;
            }
            for (number, scores) in waiting.drain(..) {
                let threshold = thresholds[number - 1];
                answers.offer(&active.rows, number, threshold, rows_of(scores));
            }
            let places: Vec<usize> = (0..active.rows.len())
                .filter(|place| !answers.has(active.rows[*place]))
                .collect();
            if places.is_empty() {
                return Ok(answers.finish());
            }
            let all = active.rows.len();
            let left = all - places.len();
            if left > 0 && left as f64 >= options.compact_min_fraction * all as f64 {
                x = active.keep(&places, x);
                bias = active.bias(&device);
            }
        }
        let mask = active.tokens(&device);
        let (_, scores) = self.finish(x, mask.as_ref(), mode)?;
        answers.take(&active.rows, layers, rows_of(scores));
        Ok(answers.finish())
    }
}

/// The rows of `[rows, labels]`, read from the device.
fn rows_of(scores: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, labels] = scores.dims();
    let values: Vec<f32> = scores.into_data().iter::<f32>().collect();
    values.chunks(labels.max(1)).map(<[f32]>::to_vec).collect()
}

/// The answers so far, by place in the batch.
struct Answers {
    found: Vec<Option<(usize, Vec<f32>)>>,
    entropies: Vec<Vec<f32>>,
}

impl Answers {
    fn new(batch: usize) -> Self {
        Self {
            found: vec![None; batch],
            entropies: vec![vec![]; batch],
        }
    }

    fn has(&self, row: usize) -> bool {
        self.found[row].is_some()
    }

    /// An off-ramp's scores: those confident enough are answers. A row that has one keeps it, though it was computed on.
    fn offer(&mut self, rows: &[usize], layer: usize, threshold: f32, scores: Vec<Vec<f32>>) {
        for (&row, logits) in rows.iter().zip(scores) {
            if self.has(row) {
                continue;
            }
            let entropy = entropy(&logits);
            self.entropies[row].push(entropy);
            if entropy < threshold {
                self.found[row] = Some((layer, logits));
            }
        }
    }

    /// An exit that answers everyone who is left.
    fn take(&mut self, rows: &[usize], layer: usize, scores: Vec<Vec<f32>>) {
        self.offer(rows, layer, f32::INFINITY, scores.clone());
        for (&row, logits) in rows.iter().zip(scores) {
            // An entropy that is NaN is below nothing.
            self.found[row].get_or_insert((layer, logits));
        }
    }

    fn finish(self) -> Vec<ExitRecord> {
        let answered = self.found.into_iter().zip(self.entropies);
        let records = answered.filter_map(|(found, entropies)| {
            let (layer, logits) = found?;
            Some(ExitRecord {
                layer,
                logits,
                entropies,
            })
        });
        records.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entropy_is_safe_and_right() {
        let half = entropy(&[3.0, 3.0]);
        assert!((half - 2f32.ln()).abs() < 1e-7, "{half}");
        // p = 1 / (1 + e), in closed form.
        let p = 1.0 / (1.0 + 1f64.exp());
        let expected = -(p * p.ln() + (1.0 - p) * (1.0 - p).ln());
        assert!((f64::from(entropy(&[0.0, 1.0])) - expected).abs() < 1e-7);
        for logits in [[1e4, -1e4], [3e38, -3e38], [200.0, 0.0], [-100.0, 100.0]] {
            let found = entropy(&logits);
            assert!((0.0..1e-30).contains(&found), "{logits:?}: {found}");
        }
        assert_eq!(entropy(&[7.0]), 0.0);
        assert!(entropy(&[f32::NAN, 0.0]).is_nan());
        assert!(entropy(&[f32::INFINITY, 0.0]).is_nan());
        let third = entropy(&[-1e30; 3]);
        assert!((third - 3f32.ln()).abs() < 1e-6, "{third}");
    }

    #[test]
    fn thresholds_fit_the_layers() {
        assert_eq!(Thresholds::One(0.5).resolve(3).unwrap(), [0.5; 3]);
        let list = Thresholds::PerLayer(vec![0.1, 0.2]);
        assert_eq!(list.resolve(2).unwrap(), [0.1, 0.2]);
        let error = list.resolve(3).unwrap_err().to_string();
        assert!(
            error.contains("a list of 2") && error.contains('3'),
            "{error}"
        );
        let error = Thresholds::PerLayer(vec![0.0, f32::NAN]).resolve(2);
        assert!(error.unwrap_err().to_string().contains("layer 2"));
        assert!(Thresholds::One(f32::NAN).resolve(2).is_err());
        assert!(Thresholds::One(-1.0).resolve(2).is_ok());
    }

    #[test]
    fn an_answer_is_kept_and_nan_never_leaves() {
        let mut answers = Answers::new(2);
        let sure = vec![9.0, -9.0];
        answers.offer(&[0, 1], 1, 0.1, vec![sure.clone(), vec![f32::NAN, 0.0]]);
        answers.offer(&[0, 1], 2, 0.1, vec![vec![-9.0, 9.0], vec![f32::NAN, 0.0]]);
        assert!(answers.has(0) && !answers.has(1));
        answers.take(&[0, 1], 3, vec![vec![0.0, 0.0], vec![0.0, f32::NAN]]);
        let found = answers.finish();
        assert_eq!((found[0].layer, &found[0].logits), (1, &sure));
        assert_eq!(found[0].entropies.len(), 1);
        assert_eq!((found[1].layer, found[1].entropies.len()), (3, 3));
    }

    #[test]
    fn only_columns_behind_every_row_are_cut() {
        let mask = [true, true, false, false, false, false, true, false];
        assert_eq!(longest(mask.chunks(4)), 3);
        let ids = (0..8).collect();
        let input = EncoderInput::new(ids, 2, 4).unwrap();
        assert!(trimmed(&input).unwrap().is_none());
        let input = input.with_attention_mask(mask.to_vec()).unwrap();
        let input = input.with_token_types(vec![1; 8]).unwrap();
        let short = trimmed(&input).unwrap().unwrap();
        assert_eq!(short.input_ids(), [0, 1, 2, 4, 5, 6]);
        assert_eq!(short.token_type_ids(), Some(&[1i64; 6][..]));
        assert!(trimmed(&short).unwrap().is_none());
    }
}
