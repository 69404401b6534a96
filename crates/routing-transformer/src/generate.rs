//! Text, token by token.
//!
//! The clusters of the last position are those of the text up to it: nothing after a position is there when its token is
//! drawn, whatever rule the model was trained with.

use crate::layers::Mode;
use crate::lm::{PADDING, RoutingTransformerLM};
use crate::task::model_ids;
use burn::prelude::*;
use language::Reader;
use trainer::Result;

/// A model that continues text.
pub type TextGenerator = language::TextGenerator<WindowReader>;

/// Reads a text, each time its last window again, on a device without autodiff.
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
        let front = matches!(self.model, RoutingTransformerLM::Paper(_));
        let room = self.window - usize::from(front);
        self.text.extend(tokens);
        self.text.drain(..self.text.len().saturating_sub(room));
        let mut ids = model_ids(&self.text);
        if front {
            ids.insert(0, PADDING as i32);
        }
        let length = ids.len();
        let ids = Tensor::from_data(TensorData::new(ids, [1, length]), &self.device);
        let output = self.model.forward(ids, Mode::evaluation())?;
        let last = output.logits.narrow(1, length - 1, 1).into_data();
        // Id 0 is padding.
        Ok(last.iter::<f32>().skip(1).collect())
    }
}
