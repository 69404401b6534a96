//! Encoders trained with full attention, their attention replaced by landmarks, and trained a little further: a BERT, and the
//! same with a convolution beside its attention, as the published checkpoints are.

use crate::config::NystromformerConfig;
use crate::heads::NystromformerForMaskedLm;
use crate::layout::Checkpoint;
use crate::tasks::{Blocks, TextIds, hidden_scores, number};
use crate::weights::from_tensors;
use bert::{
    BertConfig, BertForMaskedLm, BertTokenizer, EncoderCall, IGNORED, Mode, TokenizerOptions,
    cross_entropy, saved_tensors, select_rows, train_vocabulary,
};
use burn::module::Module;
use burn::prelude::*;
use core_attn::random::Key;
use datasets::CorpusSpec;
use serde_json::{Map, Value, json};
use trainer::{
    Axis, BenchOptions, Context, Error, Figure, Learner, Lines, OptimizerConfig, Result, Schedule,
    Series, Table,
};

const LENGTH: usize = 128;
const WIDTH: usize = 128;
const BATCH: usize = 16;
/// Landmarks of the model that is trained further: an eighth of the length.
const LANDMARKS: usize = LENGTH / 8;
const FILTER: usize = 33;

/// The text, and the blocks that everything is judged on.
struct Data {
    train: TextIds,
    judged: Vec<Blocks>,
    key: Key,
}

impl Data {
    fn load(options: &BenchOptions) -> Result<(Self, BertTokenizer)> {
        let mut spec = CorpusSpec::named("moby-dick");
        spec.all_bytes = Some(true);
        let corpus = datasets::load(&spec, ".".as_ref()).map_err(Error::other)?;
        let text = |split: &datasets::Split| -> Result<Vec<String>> {
            let bytes = corpus.vocabulary.decode_bytes(&split.tokens);
            let bytes = bytes.map_err(Error::other)?;
            Ok(vec![String::from_utf8_lossy(&bytes).into_owned()])
        };
        let train = text(&corpus.train)?;
        let how = TokenizerOptions::default();
        let tokenizer = train_vocabulary(&train[0], 2000, how)
            .and_then(|v| BertTokenizer::from_vocab(&v, how, "moby-dick".as_ref()))
            .map_err(Error::other)?;
        let mask = (0.15, 80);
        let valid = TextIds::new(&text(&corpus.valid)?, &tokenizer, LENGTH, mask)?;
        let key = Key::new(options.seed).site("drop-in");
        let count = if options.quick { 1 } else { 8 };
        let judged = (0..count).map(|i| {
            let rows = i * BATCH..(i + 1) * BATCH;
            valid.blocks(key.site("judged"), rows)
        });
        let data = Self {
            judged: judged.collect::<Result<_>>()?,
            train: TextIds::new(&train, &tokenizer, LENGTH, mask)?,
            key,
        };
        Ok((data, tokenizer))
    }

    fn batch(&self, what: &str, step: u64) -> Result<Blocks> {
        let key = self.key.site(what).fold(step);
        self.train.blocks(key, 0..BATCH)
    }
}

/// Loss in nats per word, share of words guessed, and the guesses.
struct Judged {
    loss: f64,
    accuracy: f64,
    guesses: Vec<i64>,
}

fn judge(data: &Data, scores: impl Fn(&Blocks) -> Result<(Tensor<2>, Vec<i64>)>) -> Result<Judged> {
    let (mut nats, mut hits, mut guesses) = (0.0, 0usize, vec![]);
    for blocks in &data.judged {
        let (scores, words) = scores(blocks)?;
        let best: Vec<i64> = scores.clone().argmax(1).into_data().iter::<i64>().collect();
        hits += best.iter().zip(&words).filter(|(a, b)| a == b).count();
        let loss = cross_entropy(scores, &words, IGNORED).map_err(Error::other)?;
        nats += number(loss) * words.len() as f64;
        guesses.extend(best);
    }
    let n = guesses.len().max(1) as f64;
    Ok(Judged {
        loss: nats / n,
        accuracy: hits as f64 / n,
        guesses,
    })
}

/// Share of the guesses that are the same.
fn agreement(a: &Judged, b: &Judged) -> f64 {
    let same = a.guesses.iter().zip(&b.guesses).filter(|(a, b)| a == b);
    same.count() as f64 / a.guesses.len().max(1) as f64
}

fn optimizer(lr: f64) -> OptimizerConfig {
    OptimizerConfig::AdamW {
        lr,
        betas: [0.9, 0.999],
        eps: 1e-6,
        weight_decay: 0.01,
        bias_correction: true,
        groups: vec![],
    }
}

fn schedule(warmup: u64, steps: u64) -> Schedule {
    Schedule::Linear {
        warmup,
        warmup_from: 0.0,
        from_zero: true,
        steps: Some(steps),
        end_lr: 0.0,
    }
}

/// Trains a model from scratch on the text.
fn trained<M: Module>(
    data: &Data,
    model: M,
    steps: u64,
    cx: &mut Context,
    loss: impl Fn(&M, &Blocks) -> bert::Result<Tensor<1>>,
) -> Result<M> {
    let warmup = steps / 20 + 1;
    let mut learner = Learner::new(
        model,
        &optimizer(2e-3),
        &schedule(warmup, steps.max(warmup)),
        Some(1.0),
        None,
    )?;
    for step in 0..steps {
        if cx.cancelled() {
            return Err(Error::cancelled());
        }
        let blocks = data.batch("full", step)?;
        learner.step(step + 1, vec![blocks], |model, blocks| {
            Ok((loss(model, &blocks).map_err(Error::other)?, ()))
        })?;
        cx.progress(step + 1, steps, "a model with full attention");
    }
    Ok(learner.into_model().valid())
}

fn own_loss(model: &NystromformerForMaskedLm, blocks: &Blocks) -> bert::Result<Tensor<1>> {
    let hidden = model
        .nystromformer
        .forward(&blocks.input, Mode::evaluation())?;
    model.loss(hidden, &blocks.labels)
}

/// A trained model in Hugging Face's layout, and how it does by itself.
struct Source {
    name: &'static str,
    checkpoint: Checkpoint,
    before: Judged,
    /// What the conversion may change besides the attention.
    filters: Vec<Option<usize>>,
}

fn bert_source(
    data: &Data,
    tokenizer: &BertTokenizer,
    steps: u64,
    device: &Device,
    cx: &mut Context,
) -> Result<Source> {
    let config = BertConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: WIDTH,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 2 * WIDTH,
        max_position_embeddings: LENGTH,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        initializer_range: 0.05,
        ..BertConfig::default()
    };
    let model = BertForMaskedLm::new(&config, data.key.site("init"), &device.clone().autodiff());
    let model = model.map_err(Error::other)?;
    let model = trained(data, model, steps, cx, |model, blocks| {
        let call = EncoderCall::default();
        let body = model.bert.forward(&blocks.input, &call)?;
        model.loss(&body, &blocks.labels)
    })?;
    let before = judge(data, |blocks| {
        let (scores, _) = model
            .forward(&blocks.input, &EncoderCall::default())
            .map_err(Error::other)?;
        let [batch, length, vocab] = scores.dims();
        let places: Vec<usize> = (0..blocks.labels.len())
            .filter(|&i| blocks.labels[i] != IGNORED)
            .collect();
        let words = places.iter().map(|&i| blocks.labels[i]).collect();
        let rows = scores.reshape([batch * length, vocab]);
        Ok((select_rows(rows, &places), words))
    })?;
    let config = serde_json::to_value(model.bert.config()).map_err(Error::other)?;
    let file = "the trained BERT".as_ref();
    let checkpoint = Checkpoint::new(config, saved_tensors(&model), file, file);
    Ok(Source {
        name: "BERT",
        checkpoint: checkpoint.map_err(Error::other)?,
        before,
        filters: vec![None, Some(FILTER)],
    })
}

fn own_source(
    data: &Data,
    tokenizer: &BertTokenizer,
    steps: u64,
    device: &Device,
    cx: &mut Context,
) -> Result<Source> {
    let config = NystromformerConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: WIDTH,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 2 * WIDTH,
        max_position_embeddings: LENGTH,
        hidden_dropout_prob: 0.0,
        initializer_range: 0.05,
        conv_kernel_size: Some(FILTER),
        pad_token_id: Some(tokenizer.special().pad as usize),
        ..NystromformerConfig::default()
    };
    let model = config.init(data.key.site("init"), &device.clone().autodiff());
    let model = trained(data, model.map_err(Error::other)?, steps, cx, own_loss)?;
    Ok(Source {
        name: "encoder with convolution",
        before: judge(data, |blocks| hidden_scores(&model, blocks))?,
        checkpoint: Checkpoint {
            config,
            tensors: pretrained::collect_weights(&model),
            left_aside: vec![],
            file: "the trained encoder".into(),
        },
        filters: vec![Some(FILTER)],
    })
}

/// What the conversion changes: the number of landmarks, and the convolution, which begins at zero where there is none.
fn landmarks(count: usize, filter: Option<usize>) -> Map<String, Value> {
    let keys = json!({
        "landmark_policy": "uneven", "num_landmarks": count, "conv_kernel_size": filter,
        "inv_coeff_init_option": true,
    });
    keys.as_object().cloned().unwrap_or_default()
}

impl Source {
    fn converted(
        &self,
        keys: Option<Map<String, Value>>,
        device: &Device,
    ) -> Result<NystromformerForMaskedLm> {
        let mut found = self.checkpoint.clone();
        if let Some(keys) = keys {
            found.change(&keys).map_err(Error::other)?;
        }
        let (key, file) = (Key::new(0), found.file);
        from_tensors(&found.config, found.tensors, &file, false, key, device)
            .map(|(model, _)| model)
            .map_err(Error::other)
    }

    /// The losses and agreements before and after, as a table and as curves over the updates that follow.
    fn study(
        &self,
        data: &Data,
        [steps, more, every]: [u64; 3],
        device: &Device,
        cx: &mut Context,
    ) -> Result<[Figure; 2]> {
        let name = self.name;
        let mut rows = vec![];
        let mut row = |what: String, found: &Judged| {
            let same = agreement(&self.before, found);
            rows.push(vec![
                what,
                format!("{:.4}", found.loss),
                format!("{:.4}", found.accuracy),
                format!("{same:.3}"),
            ]);
        };
        row(
            format!("{name}, full attention, {steps} updates"),
            &self.before,
        );
        let judged = |model: &NystromformerForMaskedLm| judge(data, |b| hidden_scores(model, b));
        let whole = self.converted(None, device)?;
        row("converted, full mode".into(), &judged(&whole)?);
        let filter = self.filters[0];
        for count in [LENGTH / 2, LENGTH / 4, LENGTH / 8, LENGTH / 16] {
            let model = self.converted(Some(landmarks(count, filter)), device)?;
            row(format!("converted, {count} landmarks"), &judged(&model)?);
        }
        let mut variants = vec![("full attention".to_owned(), None)];
        variants.extend(self.filters.iter().map(|filter| {
            let added = match (filter, self.filters.len()) {
                (Some(size), 2) => format!(", convolution over {size} tokens from zero"),
                _ => String::new(),
            };
            let keys = landmarks(LANDMARKS, *filter);
            (format!("{LANDMARKS} landmarks{added}"), Some(keys))
        }));
        let mut series = vec![];
        for (name, keys) in variants {
            let model = self.converted(keys, &device.clone().autodiff())?;
            let warmup = more / 10 + 1;
            let mut learner = Learner::new(
                model,
                &optimizer(5e-4),
                &schedule(warmup, more.max(warmup)),
                Some(1.0),
                None,
            )?;
            let mut points = vec![(0.0, judged(&learner.evaluation_model())?.loss)];
            for step in 0..more {
                if cx.cancelled() {
                    return Err(Error::cancelled());
                }
                let blocks = data.batch("further", step)?;
                learner.step(step + 1, vec![blocks], |model, blocks| {
                    Ok((own_loss(model, &blocks).map_err(Error::other)?, ()))
                })?;
                if (step + 1) % every == 0 {
                    let found = judged(&learner.evaluation_model())?;
                    points.push(((step + 1) as f64, found.loss));
                    if step + 1 == more {
                        row(format!("{name}, {more} more updates"), &found);
                    }
                }
                cx.progress(step + 1, more, "after the conversion");
            }
            series.push(Series { name, points });
        }
        let columns = [
            "model",
            "loss, nats",
            "accuracy",
            "agreement with the original",
        ];
        Ok([
            Figure::Table(Table {
                title: format!(
                    "Drop-in: {name} (2 layers of {WIDTH}, masked words of Moby-Dick in blocks of {LENGTH}) converted to landmarks; {} words of the validation split",
                    self.before.guesses.len()
                ),
                columns: columns.map(str::to_owned).to_vec(),
                rows,
            }),
            Figure::Lines(Lines {
                title: format!("Drop-in: {name}, loss after the conversion"),
                x: Axis::new("updates after the conversion"),
                y: Axis::with_unit("validation loss", "nats"),
                series,
            }),
        ])
    }
}

/// Trains and converts both encoders.
pub(super) fn drop_in(
    options: &BenchOptions,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let sizes = match options.quick {
        true => [20, 4, 2],
        false => [600, 100, 20],
    };
    let (data, tokenizer) = Data::load(options)?;
    let mut figures = vec![];
    for source in [bert_source, own_source] {
        let source = source(&data, &tokenizer, sizes[0], device, cx)?;
        figures.extend(source.study(&data, sizes, device, cx)?);
    }
    Ok(figures)
}
