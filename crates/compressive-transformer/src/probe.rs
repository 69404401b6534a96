//! Recall over a known distance: keys and values planted in real text, learned at small distances first and asked for beyond the
//! ordinary memory's reach.

use crate::config::CompressiveTransformerConfig;
use crate::learners::Learners;
use crate::memory::CompressedMemoryState;
use crate::memory_model::{MemoryModel, Mode};
use crate::model::CompressiveTransformer;
use crate::recipe::TrainingConfig;
use burn::prelude::*;
use core_attn::dropout::Dropout;
use core_attn::random::Key;
use datasets::{Answer, Planted, ProbeSpec};
use language::tokens;
use trainer::{
    Axis, Context, Error, Figure, Lines, OptimizerConfig, Result, Schedule, Series, Table,
};

/// Byte values, so that the model needs no vocabulary.
pub(crate) const IDS: usize = 256;
/// Values an answer can have: chance is one in so many.
pub(crate) const VALUES: usize = 10;
/// Rows of text that are read side by side.
const ROWS: usize = 16;

/// A part of the curriculum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    /// The smallest distance.
    pub nearest: usize,
    /// The largest distance.
    pub farthest: usize,
    /// Chunks read.
    pub steps: u64,
}

/// Texts to plant in.
pub(crate) struct Ground<'a> {
    pub train: &'a [u8],
    pub held_out: &'a [u8],
}

impl Ground<'_> {
    fn plant(&self, text: &[u8], nearest: usize, farthest: usize, seed: u64) -> Result<Planted> {
        let spec = ProbeSpec {
            nearest,
            farthest,
            // One value is to be remembered at a time: to tell several apart by their keys takes longer to learn than this has time.
            spacing: farthest,
            keys: 4,
            values: VALUES,
            seed,
        };
        spec.plant(text).map_err(Error::other)
    }
}

/// Tokens `[rows, length]`, those that follow, and where an answer follows.
struct Piece {
    inputs: Vec<u32>,
    targets: Vec<u32>,
    answers: Vec<Option<Answer>>,
}

/// Cuts a planted text into rows and reads them in chunks.
fn pieces(planted: &Planted, rows: usize, chunk: usize) -> Vec<Piece> {
    let width = planted.text.len().saturating_sub(1) / rows;
    let mut asked = vec![None; planted.text.len()];
    for answer in &planted.answers {
        asked[answer.at] = Some(*answer);
    }
    let piece = |k: usize| {
        let starts = (0..rows).map(|row| row * width + k * chunk);
        let places: Vec<usize> = starts.flat_map(|start| start..start + chunk).collect();
        let id = |at: usize| u32::from(planted.text[at]);
        // An answer that was told in the row before is not asked for: no row sees another.
        let inside = |at: usize| {
            asked[at + 1].filter(|a: &Answer| at + 1 - a.distance >= at / width.max(1) * width)
        };
        Piece {
            inputs: places.iter().map(|at| id(*at)).collect(),
            targets: places.iter().map(|at| id(at + 1)).collect(),
            answers: places.iter().map(|at| inside(*at)).collect(),
        }
    };
    (0..width / chunk).map(piece).collect()
}

/// A model that learns to answer.
pub(crate) struct Pupil {
    learners: Learners<CompressiveTransformer>,
    state: CompressedMemoryState,
    seed: u64,
    step: u64,
    device: Device,
}

impl Pupil {
    pub fn new(
        config: &CompressiveTransformerConfig,
        training: &TrainingConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let device = device.clone().without_autodiff();
        let key = Key::new(seed).site("init");
        let model = config
            .init(key, &device.clone().autodiff())
            .map_err(Error::other)?;
        let state = blank(&model)?;
        Ok(Self {
            learners: Learners::new(model, training)?,
            state,
            seed,
            step: 0,
            device,
        })
    }

    /// The model as it stands.
    pub fn model(&self) -> CompressiveTransformer {
        self.learners.main.evaluation_model()
    }

    /// Goes through a phase. What is learned from is the mean loss of all tokens and, with the same weight, that of the answers.
    pub fn learn(
        &mut self,
        phase: Phase,
        ground: &Ground<'_>,
        name: &str,
        cx: &mut Context,
    ) -> Result<()> {
        let chunk = self.learners.main.model().chunk_size();
        let mut waiting = vec![].into_iter();
        for done in 0..phase.steps {
            let piece = match waiting.next() {
                Some(piece) => piece,
                None => {
                    // A pass over the text, with other questions each time and memories that know nothing of the last one.
                    let seed = Key::new(self.seed).site("probe").fold(self.step).bits(0);
                    let planted =
                        ground.plant(ground.train, phase.nearest, phase.farthest, seed)?;
                    self.state = blank(self.learners.main.model())?;
                    waiting = pieces(&planted, ROWS, chunk).into_iter();
                    let Some(first) = waiting.next() else {
                        let expected = format!("enough for {ROWS} rows of {chunk}");
                        let found = format!("{} bytes", ground.train.len());
                        return Err(Error::value("the text to plant in", found, expected));
                    };
                    first
                }
            };
            self.update(&piece)?;
            cx.progress(done + 1, phase.steps, name);
            if cx.cancelled() {
                return Err(Error::cancelled());
            }
        }
        Ok(())
    }

    fn update(&mut self, piece: &Piece) -> Result<()> {
        let model = self.learners.main.model();
        let output = model
            .read(
                tokens(&piece.inputs, ROWS, &self.device),
                None,
                self.state.clone(),
                Mode::training(Dropout::off()),
                &mut |_| {},
            )
            .map_err(Error::other)?;
        let aux = output.aux_loss();
        let nll = model
            .nll(output.hidden, tokens(&piece.targets, ROWS, &self.device))
            .map_err(Error::other)?;
        let asked: Vec<f32> = piece
            .answers
            .iter()
            .map(|a| f32::from(u8::from(a.is_some())))
            .collect();
        let count = asked.iter().sum::<f32>().max(1.0);
        let asked = Tensor::<2>::from_data(TensorData::new(asked, nll.shape()), &self.device);
        let loss = nll.clone().mean() + (nll * asked).sum() / count;
        let total = match aux.filter(Tensor::is_tracked) {
            Some(aux) => loss + aux,
            None => loss,
        };
        let gradients = self.learners.main.gradients(total)?;
        self.step += 1;
        self.learners.apply(self.step, gradients)?;
        self.state = output.state.detach();
        Ok(())
    }
}

fn blank(model: &CompressiveTransformer) -> Result<CompressedMemoryState> {
    model
        .start(ROWS, model.sizes(), false)
        .map_err(Error::other)
}

/// How often answers are right, between two distances.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Recall {
    pub asked: usize,
    pub right: usize,
}

impl Recall {
    /// The share of right answers.
    pub fn share(&self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }
}

/// Asks a model on held-out text, `change` being done to its memories before each chunk: one [`Recall`] for each of the ranges
/// of distances.
pub(crate) fn ask(
    model: &CompressiveTransformer,
    ground: &Ground<'_>,
    ranges: &[[usize; 2]],
    change: fn(CompressedMemoryState) -> CompressedMemoryState,
    device: &Device,
) -> Result<Vec<Recall>> {
    let mut all = vec![];
    for (i, &[nearest, farthest]) in ranges.iter().enumerate() {
        let planted = ground.plant(ground.held_out, nearest, farthest, 1000 + i as u64)?;
        let mut recall = Recall::default();
        let mut state = model
            .start(ROWS, model.sizes(), true)
            .map_err(Error::other)?;
        for piece in pieces(&planted, ROWS, model.chunk_size()) {
            let inputs = tokens(&piece.inputs, ROWS, device);
            let output = model
                .read(inputs, None, change(state), Mode::evaluation(), &mut |_| {})
                .map_err(Error::other)?;
            state = output.state;
            if piece.answers.iter().all(Option::is_none) {
                continue;
            }
            let best = model.log_probabilities(output.hidden).argmax(2);
            let best: Vec<i64> = best.into_data().iter::<i64>().collect();
            let places = piece.answers.iter().zip(&piece.targets).zip(best);
            for ((answer, target), found) in places {
                if answer.is_some() {
                    recall.asked += 1;
                    recall.right += usize::from(found == i64::from(*target));
                }
            }
        }
        all.push(recall);
    }
    Ok(all)
}

/// Distances that are asked for: of the last no Transformer-XL of two layers and 128 rows sees the value, as it reaches
/// 2 · (128 + 31) bytes back.
const RANGES: [[usize; 2]; 5] = [[8, 24], [25, 64], [65, 128], [129, 256], [330, 400]];

/// The curriculum, in chunks of 16 rows of 32 bytes.
const CURRICULUM: [Phase; 5] = [
    phase(24, 300),
    phase(64, 400),
    phase(128, 400),
    phase(256, 400),
    phase(400, 1000),
];

const fn phase(farthest: usize, steps: u64) -> Phase {
    Phase {
        nearest: 8,
        farthest,
        steps,
    }
}

fn config(memory_size: usize, compressed: usize) -> CompressiveTransformerConfig {
    CompressiveTransformerConfig {
        vocab_size: Some(IDS),
        chunk_size: 32,
        memory_size,
        compressed_memory_size: compressed,
        compression_rate: 4,
        value_size: 16,
        num_heads: 4,
        num_layers: 2,
        mlp_hidden_sizes: vec![128],
        ..Default::default()
    }
}

/// Recall on held-out text by distance, of a Compressive Transformer and of a Transformer-XL whose attention costs as much; with
/// `quick` after a curriculum too short to learn anything.
pub(crate) fn demonstrate(
    quick: bool,
    seed: u64,
    device: &Device,
    cx: &mut Context,
) -> Result<Vec<Figure>> {
    let text = datasets::embedded::open("moby-dick").map_err(Error::other)?;
    let (train, held_out) = text.split_at(text.len() / 100 * 95);
    let ground = Ground {
        train,
        held_out: &held_out[..if quick { 12_000 } else { held_out.len() }],
    };
    let training = TrainingConfig {
        optimizer: OptimizerConfig::Adam {
            lr: 2e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            bias_correction: true,
            groups: vec![],
        },
        schedule: Schedule::Constant {
            warmup: 100,
            warmup_from: 0.0,
            from_zero: false,
        },
        clip: Some(0.5),
        ..TrainingConfig::default()
    };
    let contenders = [
        ("compressive, 32 + 96 rows, 4 to 1", config(32, 96)),
        ("Transformer-XL, 128 rows (equal cost)", config(128, 0)),
    ];
    let mut rows = vec![];
    let mut series = vec![];
    for (name, config) in contenders {
        let mut pupil = Pupil::new(&config, &training, seed, device)?;
        for mut phase in CURRICULUM {
            phase.steps = if quick { 3 } else { phase.steps };
            pupil.learn(phase, &ground, name, cx)?;
        }
        let model = pupil.model();
        let mut measure = |name: &str, change| -> Result<()> {
            let found = ask(&model, &ground, &RANGES, change, device)?;
            let shares: Vec<f64> = found.iter().map(Recall::share).collect();
            let cells = shares.iter().map(|share| format!("{:.1} %", 100.0 * share));
            rows.push([name.to_owned()].into_iter().chain(cells).collect());
            let middles = RANGES.iter().map(|[a, b]| (a + b) as f64 / 2.0);
            series.push(Series {
                name: name.to_owned(),
                points: middles.zip(shares).collect(),
            });
            Ok(())
        };
        measure(name, |memories| memories)?;
        if config.compresses() {
            let name = "the same, its compressed memory zeroed";
            measure(name, CompressedMemoryState::without_compressed)?;
        }
    }
    let columns = RANGES.iter().map(|[a, b]| format!("{a} to {b} bytes back"));
    Ok(vec![
        Figure::Table(Table {
            title: format!(
                "Answers recalled in held-out text (chance: {} %)",
                100 / VALUES
            ),
            columns: ["model".to_owned()].into_iter().chain(columns).collect(),
            rows,
        }),
        Figure::Lines(Lines {
            title: "Answers recalled, by the distance of what is asked for".to_owned(),
            x: Axis::with_unit("distance", "bytes"),
            y: Axis::new("share of right answers"),
            series,
        }),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_told_in_another_row_are_not_asked_for() {
        let text: Vec<u8> = (0..401u32).map(|i| (i % 251) as u8).collect();
        let answer = |at: usize, distance: usize| Answer { at, distance };
        // Four rows of 100 bytes, of which 96 are read.
        let answers = vec![
            answer(30, 20),
            answer(105, 20),
            answer(121, 20),
            answer(125, 25),
            answer(198, 10),
            answer(399, 99),
        ];
        let planted = Planted { text, answers };
        let mut asked = vec![];
        for (k, piece) in pieces(&planted, 4, 16).iter().enumerate() {
            for (i, answer) in piece.answers.iter().enumerate() {
                let at = i / 16 * 100 + k * 16 + i % 16;
                assert_eq!(piece.inputs[i], u32::from(planted.text[at]));
                assert_eq!(piece.targets[i], u32::from(planted.text[at + 1]));
                if let Some(answer) = answer {
                    assert_eq!(answer.at, at + 1);
                    asked.push(answer.at);
                }
            }
        }
        asked.sort_unstable();
        assert_eq!(asked, [30, 121, 125]);
    }
}
