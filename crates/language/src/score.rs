//! How likely each token of a split is: read once from its beginning, or in windows that overlap.

use crate::evaluate::{document_pass, row_pass};
use crate::stream::{Chunk, documents};
use burn::prelude::*;
use datasets::Corpus;
use trainer::{Context, Error, Metrics, Result, Scoring, Split, TokenScore};

/// A model that reads several texts side by side and says how likely what comes next was.
pub trait Scorer {
    /// Begins `rows` texts from nothing.
    ///
    /// # Errors
    /// Whatever the model refuses.
    fn begin(&mut self, rows: usize) -> Result<()>;

    /// Reads on in all rows: the negative log-likelihood in nats of each target, given the inputs up to its own; `[rows, length]`
    /// row by row, the same for the result.
    ///
    /// # Errors
    /// Whatever the model refuses.
    fn read(&mut self, inputs: &[u32], targets: &[u32], rows: usize) -> Result<Tensor<2>>;

    /// Most tokens of one reading.
    fn longest(&self) -> usize;

    /// Whether a reading sees what was read since the beginning. Else every reading must begin its texts anew.
    fn remembers(&self) -> bool;

    /// Tokens of a window where nobody says how many: what the last of them can see.
    fn window(&self) -> usize;
}

/// What is to be scored.
#[derive(Debug, Clone, Copy)]
pub struct ScoreTask<'a> {
    /// Where the split and its vocabulary come from.
    pub corpus: &'a Corpus,
    /// The split.
    pub split: Split,
    /// Rows or windows that are read side by side.
    pub rows: usize,
    /// Whether each document is a text of its own.
    pub by_document: bool,
    /// Windows, if any.
    pub options: Scoring,
}

/// Tokens read as one text, and which of their successors are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// The first input.
    start: usize,
    /// Number of inputs.
    length: usize,
    /// The first input whose successor is scored, counted from `start`.
    from: usize,
}

/// Windows over a text of `inputs` tokens that have a successor, beginning at `start`: every successor is scored once. All windows
/// but that of a text shorter than one are equally long; the last is moved to the left so that it ends with the text.
fn windows(start: usize, inputs: usize, window: usize, stride: usize) -> Vec<Window> {
    let length = window.min(inputs);
    let mut all = vec![];
    let mut scored = 0;
    let mut at = 0;
    while scored < inputs {
        let first = at.min(inputs - length);
        all.push(Window {
            start: start + first,
            length,
            from: scored - first,
        });
        scored = first + length;
        at = first + stride;
    }
    all
}

/// Scores a split; `sink` is given every token that was scored, in the order of the text.
///
/// The first token of a text has nothing before it and is not scored; neither are tokens at the end of a split that its rows do
/// not divide.
///
/// # Errors
/// A stride or window that cannot be, a split too short for its rows, and whatever the model or `sink` refuses.
pub fn score(
    scorer: &mut dyn Scorer,
    task: ScoreTask<'_>,
    sink: &mut dyn FnMut(TokenScore<'_>) -> Result<()>,
    cx: &mut Context,
) -> Result<Metrics> {
    let split = match task.split {
        Split::Train => &task.corpus.train,
        Split::Valid => &task.corpus.valid,
        Split::Test => &task.corpus.test,
    };
    let window = check(scorer, task.options)?;
    // Nats of each token of the split that is scored.
    let mut nats = vec![None; split.tokens.len()];
    let what = format!("scoring {}", task.split.name());
    match (task.options.stride, scorer.remembers()) {
        (None, true) => {
            let texts = match task.by_document {
                true => document_pass(split, scorer.longest()),
                false => vec![row_pass(split, task.rows, scorer.longest())?],
            };
            let starts = match task.by_document {
                true => starts(split),
                false => vec![(0, split.tokens.len())],
            };
            let total: usize = texts.iter().map(Vec::len).sum();
            let mut done = 0;
            for (text, (start, _)) in texts.iter().zip(starts) {
                let rows = text.first().map_or(1, |chunk| chunk.batch);
                let width: usize = text.iter().map(|c| c.inputs.len() / rows).sum();
                scorer.begin(rows)?;
                let mut at = 0;
                for chunk in text {
                    let Chunk {
                        inputs, targets, ..
                    } = chunk;
                    let found = host(scorer.read(inputs, targets, rows)?);
                    let n = inputs.len() / rows;
                    for (row, found) in found.chunks_exact(n.max(1)).enumerate() {
                        let first = start + row * width + at + 1;
                        note(&mut nats[first..first + n], found);
                    }
                    at += n;
                    done += 1;
                    step(cx, done, total, &what)?;
                }
            }
        }
        (stride, _) => {
            let stride = stride.unwrap_or(window);
            let texts = match task.by_document {
                true => starts(split),
                false => vec![(0, split.tokens.len())],
            };
            let all: Vec<Window> = texts
                .iter()
                .flat_map(|(start, n)| windows(*start, n.saturating_sub(1), window, stride))
                .collect();
            // Windows that are read side by side must be equally long.
            let groups = all.chunk_by(|a, b| a.length == b.length);
            let groups: Vec<&[Window]> = groups.flat_map(|g| g.chunks(task.rows)).collect();
            for (done, group) in groups.iter().enumerate() {
                slide(scorer, &split.tokens, group, &mut nats)?;
                step(cx, done + 1, groups.len(), &what)?;
            }
        }
    }
    report(task.corpus, split, &nats, sink)
}

/// Documents in which there is something to score, or the whole split if it has none.
fn starts(split: &datasets::Split) -> Vec<(usize, usize)> {
    documents(&split.documents, split.tokens.len())
}

fn check(scorer: &dyn Scorer, options: Scoring) -> Result<usize> {
    let window = options.window.unwrap_or_else(|| scorer.window()).max(1);
    if options.window == Some(0) {
        return Err(Error::value("the window", 0, "at least 1 token"));
    }
    if !scorer.remembers() && window > scorer.longest() {
        let expected = format!(
            "at most {} tokens, which is all that this model reads at a time",
            scorer.longest()
        );
        return Err(Error::value("the window", window, expected));
    }
    match options.stride {
        None if options.window.is_some() && scorer.remembers() => Err(Error::value(
            "the window",
            window,
            "a stride beside it: without one this model reads its text from the beginning",
        )),
        Some(stride) if stride == 0 || stride > window => Err(Error::value(
            "the stride",
            stride,
            format!("from 1 to {window}, the tokens of a window"),
        )),
        _ => Ok(window),
    }
}

fn step(cx: &mut Context, done: usize, total: usize, what: &str) -> Result<()> {
    cx.progress(done as u64, total as u64, what);
    match cx.cancelled() {
        true => Err(Error::cancelled()),
        false => Ok(()),
    }
}

fn host(values: Tensor<2>) -> Vec<f32> {
    values.into_data().iter::<f32>().collect()
}

fn note(places: &mut [Option<f32>], found: &[f32]) {
    for (place, found) in places.iter_mut().zip(found) {
        *place = Some(*found);
    }
}

/// Reads windows of one length side by side.
fn slide(
    scorer: &mut dyn Scorer,
    text: &[u32],
    group: &[Window],
    nats: &mut [Option<f32>],
) -> Result<()> {
    let length = group.first().map_or(0, |w| w.length);
    scorer.begin(group.len())?;
    for from in (0..length).step_by(scorer.longest()) {
        let n = scorer.longest().min(length - from);
        let part = |shift: usize| -> Vec<u32> {
            let rows = group.iter().map(|w| &text[w.start + from + shift..][..n]);
            rows.flatten().copied().collect()
        };
        let found = scorer.read(&part(0), &part(1), group.len())?;
        if group.iter().all(|w| w.from >= from + n) {
            continue;
        }
        for (w, found) in group.iter().zip(host(found).chunks_exact(n)) {
            let first = w.from.max(from).min(from + n);
            let places = w.start + first + 1..w.start + from + n + 1;
            note(&mut nats[places], &found[first - from..]);
        }
    }
    Ok(())
}

fn report(
    corpus: &Corpus,
    split: &datasets::Split,
    nats: &[Option<f32>],
    sink: &mut dyn FnMut(TokenScore<'_>) -> Result<()>,
) -> Result<Metrics> {
    let (mut sum, mut count) = (0.0, 0usize);
    for (position, value) in nats.iter().enumerate() {
        let Some(value) = value else { continue };
        let id = split.tokens[position];
        let before = position.checked_sub(1).map(|i| split.tokens[i]);
        let piece = corpus.vocabulary.piece(before, id).map_err(Error::other)?;
        let logprob = -f64::from(*value);
        sum -= logprob;
        count += 1;
        sink(TokenScore {
            position,
            id,
            piece: &piece,
            logprob,
        })?;
    }
    let mean = sum / count.max(1) as f64;
    Ok(Metrics::new()
        .with(corpus.unit.metric(), corpus.unit.from_nats(mean))
        .with("loss", mean)
        .with("tokens_scored", count as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::{CorpusSpec, MakeSpec, Task};

    /// A token's nats are a number that only its own text since the beginning gives.
    struct Hash {
        longest: usize,
        remembers: bool,
        past: Vec<Vec<u32>>,
        device: Device,
    }

    fn hash(past: &[u32], target: u32) -> f32 {
        let mix = |h: u64, id: &u32| {
            (h ^ u64::from(*id))
                .wrapping_mul(0x100_0000_01b3)
                .rotate_left(17)
        };
        let h = past
            .iter()
            .chain([&target])
            .fold(past.len() as u64 + 7, mix);
        (h % 100_000) as f32 / 10_000.0
    }

    impl Scorer for Hash {
        fn begin(&mut self, rows: usize) -> Result<()> {
            self.past = vec![vec![]; rows];
            Ok(())
        }

        fn read(&mut self, inputs: &[u32], targets: &[u32], rows: usize) -> Result<Tensor<2>> {
            assert_eq!((self.past.len(), inputs.len()), (rows, targets.len()));
            let n = inputs.len() / rows;
            assert!(n <= self.longest);
            let mut found = vec![];
            for (row, past) in self.past.iter_mut().enumerate() {
                assert!(self.remembers || past.is_empty(), "read on without memory");
                for i in row * n..(row + 1) * n {
                    past.push(inputs[i]);
                    found.push(hash(past, targets[i]));
                }
            }
            Ok(Tensor::from_data(
                TensorData::new(found, [rows, n]),
                &self.device,
            ))
        }

        fn longest(&self) -> usize {
            self.longest
        }

        fn remembers(&self) -> bool {
            self.remembers
        }

        fn window(&self) -> usize {
            self.longest * if self.remembers { 3 } else { 1 }
        }
    }

    fn corpus() -> Corpus {
        let spec = CorpusSpec {
            make: Some(MakeSpec {
                task: Task::Gap,
                span: 3,
                letters: 5,
                bytes: 1000,
                seed: 1,
            }),
            ..CorpusSpec::default()
        };
        let mut corpus = datasets::load(&spec, ".".as_ref()).unwrap();
        // The split has 100 tokens; the second document has nothing to score.
        corpus.test.documents = [0, 40, 41, 48].into();
        corpus
    }

    fn run(
        scorer: &mut Hash,
        corpus: &Corpus,
        by_document: bool,
        options: Scoring,
    ) -> Vec<(usize, f64)> {
        let mut all = vec![];
        let task = ScoreTask {
            corpus,
            split: Split::Test,
            rows: 3,
            by_document,
            options,
        };
        let mut sink = |token: TokenScore<'_>| {
            assert_eq!(token.id, corpus.test.tokens[token.position]);
            assert_eq!(token.piece.len(), 1);
            all.push((token.position, token.logprob));
            Ok(())
        };
        let metrics = score(scorer, task, &mut sink, &mut Context::detached()).unwrap();
        let mean = -all.iter().map(|(_, l)| l).sum::<f64>() / all.len() as f64;
        assert!((metrics.get("loss").unwrap() - mean).abs() < 1e-9);
        assert_eq!(metrics.get("tokens_scored"), Some(all.len() as f64));
        all
    }

    fn scorer(longest: usize, remembers: bool) -> Hash {
        Hash {
            longest,
            remembers,
            past: vec![],
            device: Device::flex(),
        }
    }

    /// Every token of every text from its window, as the definition has it.
    fn naive(
        corpus: &Corpus,
        texts: &[(usize, usize)],
        window: usize,
        stride: usize,
    ) -> Vec<(usize, f64)> {
        let text = &corpus.test.tokens;
        let mut all = vec![];
        for &(start, length) in texts {
            for i in 1..length {
                let late = i.saturating_sub(window).div_ceil(stride) * stride;
                let first = late.min((length - 1).saturating_sub(window));
                let past = &text[start + first..start + i];
                let logprob = -f64::from(hash(past, text[start + i]));
                all.push((start + i, logprob));
            }
        }
        all
    }

    #[test]
    fn overlapping_windows_give_every_token_its_past() {
        let corpus = corpus();
        let whole = [(0, 100)];
        let documents = [(0, 40), (41, 7), (48, 52)];
        for (by_document, texts) in [(false, &whole[..]), (true, &documents[..])] {
            for (longest, remembers) in [(12, false), (5, true), (7, true)] {
                for window in [1, 5, 11, 12, 99, 150] {
                    if window > longest && !remembers {
                        continue;
                    }
                    for stride in [1, 2, 5, 11, 12, 98, 150] {
                        if stride > window {
                            continue;
                        }
                        let options = Scoring {
                            stride: Some(stride),
                            window: Some(window),
                        };
                        let found = run(
                            &mut scorer(longest, remembers),
                            &corpus,
                            by_document,
                            options,
                        );
                        assert_eq!(
                            found,
                            naive(&corpus, texts, window, stride),
                            "{longest} {options:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_stride_a_text_is_read_from_its_beginning_or_in_windows_side_by_side() {
        let corpus = corpus();
        let none = Scoring::default();
        // Three rows of 33 tokens and their successors, each a text of its own.
        let rows = [(0, 34), (33, 34), (66, 34)];
        let found = run(&mut scorer(7, true), &corpus, false, none);
        assert_eq!(found, naive(&corpus, &rows, 99, 1));
        let documents = [(0, 40), (41, 7), (48, 52)];
        let found = run(&mut scorer(7, true), &corpus, true, none);
        assert_eq!(found, naive(&corpus, &documents, 99, 1));
        let found = run(&mut scorer(12, false), &corpus, false, none);
        assert_eq!(found, naive(&corpus, &[(0, 100)], 12, 12));
    }

    #[test]
    fn windows_that_cannot_be_are_refused() {
        let corpus = corpus();
        let refuse = |scorer: &mut Hash, stride, window, part: &str| {
            let task = ScoreTask {
                corpus: &corpus,
                split: Split::Test,
                rows: 3,
                by_document: false,
                options: Scoring { stride, window },
            };
            let found = score(scorer, task, &mut |_| Ok(()), &mut Context::detached());
            let message = found.unwrap_err().to_string();
            assert!(message.contains(part), "{part} is not in {message}");
        };
        refuse(&mut scorer(12, false), Some(0), None, "the stride");
        refuse(&mut scorer(12, false), Some(13), None, "1 to 12");
        refuse(&mut scorer(12, false), Some(1), Some(13), "at most 12");
        refuse(&mut scorer(12, true), Some(1), Some(0), "the window");
        refuse(&mut scorer(12, true), None, Some(5), "a stride beside it");
    }
}
