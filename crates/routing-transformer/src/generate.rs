//! Text, token by token.
//!
//! The clusters of the last position are those of the text up to it: nothing after a position is there when its token is
//! drawn, whatever rule the model was trained with. A model that follows the strict rule reads on ([`StreamReader`]); for
//! one that follows the reference's every new token may change what was computed before it, so its window is read again
//! ([`WindowReader`]).

use crate::layers::Mode;
use crate::lm::{PADDING, RoutingTransformerLM};
use crate::stream::TextStream;
use crate::task::model_ids;
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use language::{Reader, Scorer};
use trainer::Result;

/// A model that continues text.
pub type TextGenerator = language::TextGenerator<TextReader>;

/// Reads a text as the model's rule allows, on a device without autodiff.
pub enum TextReader {
    /// Token by token.
    Stream(StreamReader),
    /// The last window again with every token.
    Window(WindowReader),
}

impl TextReader {
    /// Begins a text, of which the last `window` tokens count.
    pub fn new(model: RoutingTransformerLM, window: usize, device: Device) -> Self {
        match model.config().strict_causal_routing() {
            true => Self::Stream(StreamReader::new(model, window, device)),
            false => Self::Window(WindowReader::new(model, window, device)),
        }
    }
}

impl Reader for TextReader {
    fn restart(&mut self) -> Result<()> {
        match self {
            Self::Stream(reader) => reader.restart(),
            Self::Window(reader) => reader.restart(),
        }
    }

    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        match self {
            Self::Stream(reader) => reader.read(tokens),
            Self::Window(reader) => reader.read(tokens),
        }
    }
}

/// Id 0, with which the authors' model begins, where `model` is theirs.
fn front(model: &RoutingTransformerLM) -> &'static [i32] {
    match model {
        RoutingTransformerLM::Paper(_) => &[PADDING as i32],
        RoutingTransformerLM::Lucidrains(_) => &[],
    }
}

fn one_text(ids: Vec<i32>, device: &Device) -> Tensor<2, Int> {
    let length = ids.len();
    Tensor::from_data(TensorData::new(ids, [1, length]), device)
}

/// Reads a text on, with what every layer remembers of it. When the window is full, its second half is read anew and the
/// text goes on behind that.
pub struct StreamReader {
    model: RoutingTransformerLM,
    window: usize,
    /// What the stream holds.
    text: Vec<u32>,
    stream: Option<TextStream>,
    device: Device,
}

impl StreamReader {
    /// Begins a text, of which at most the last `window` tokens count.
    pub fn new(model: RoutingTransformerLM, window: usize, device: Device) -> Self {
        Self {
            model,
            window: window.max(2),
            text: vec![],
            stream: None,
            device,
        }
    }
}

impl Reader for StreamReader {
    fn restart(&mut self) -> Result<()> {
        self.text.clear();
        self.stream = None;
        Ok(())
    }

    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let front = front(&self.model);
        let room = self.window - front.len();
        self.text.extend(tokens);
        let mut unread = tokens;
        if self.text.len() > room {
            let keep = room.div_ceil(2);
            self.text.drain(..self.text.len() - keep);
            self.stream = None;
            unread = &self.text;
        }
        let mut ids = model_ids(unread);
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                ids.splice(0..0, front.iter().copied());
                self.model.stream()?
            }
        };
        let (logits, stream) = self.model.read_on(one_text(ids, &self.device), stream)?;
        self.stream = Some(stream);
        // Id 0 is padding.
        Ok(logits.into_data().iter::<f32>().skip(1).collect())
    }
}

/// Reads a text, each time its last window again.
pub struct WindowReader {
    model: RoutingTransformerLM,
    window: usize,
    /// What has been read, at most a window of it.
    text: Vec<u32>,
    device: Device,
}

impl WindowReader {
    /// Begins a text, of which the last `window` tokens count.
    pub fn new(model: RoutingTransformerLM, window: usize, device: Device) -> Self {
        Self {
            model,
            window: window.max(2),
            text: vec![],
            device,
        }
    }
}

impl Reader for WindowReader {
    fn restart(&mut self) -> Result<()> {
        self.text.clear();
        Ok(())
    }

    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let front = front(&self.model);
        let room = self.window - front.len();
        self.text.extend(tokens);
        self.text.drain(..self.text.len().saturating_sub(room));
        let ids: Vec<i32> = front.iter().copied().chain(model_ids(&self.text)).collect();
        let last = ids.len() - 1;
        let ids = one_text(ids, &self.device);
        let output = self.model.forward(ids, Mode::evaluation())?;
        let last = output.logits.narrow(1, last, 1).into_data();
        // Id 0 is padding.
        Ok(last.iter::<f32>().skip(1).collect())
    }
}

/// Reads windows side by side, each a text of its own, on a device without autodiff.
pub(crate) struct WindowScorer {
    pub model: RoutingTransformerLM,
    /// Most ids of a window.
    pub window: usize,
    pub device: Device,
}

impl Scorer for WindowScorer {
    fn begin(&mut self, _rows: usize) -> Result<()> {
        Ok(())
    }

    fn read(&mut self, inputs: &[u32], targets: &[u32], rows: usize) -> Result<Tensor<2>> {
        // The authors' model foretells its first token from padding.
        let (length, front) = (inputs.len() / rows.max(1), front(&self.model));
        let ids: Vec<i32> = inputs
            .chunks_exact(length.max(1))
            .flat_map(|row| [front.to_vec(), model_ids(row)].concat())
            .collect();
        let ids = Tensor::from_data(
            TensorData::new(ids, [rows, front.len() + length]),
            &self.device,
        );
        let logits = self.model.forward(ids, Mode::evaluation())?.logits;
        let asked = TensorData::new(model_ids(targets), [rows, length, 1]);
        let asked = Tensor::<3, Int>::from_data(asked, &self.device);
        let scores = log_softmax(logits.narrow(1, front.len(), length), 2);
        Ok(scores.gather(2, asked).squeeze_dim::<2>(2).neg())
    }

    fn longest(&self) -> usize {
        self.window.saturating_sub(front(&self.model).len()).max(1)
    }

    fn remembers(&self) -> bool {
        false
    }

    fn window(&self) -> usize {
        self.longest()
    }
}
