//! Small pictures: the embedded emoji, Fashion-MNIST, and what both are as sequences of bytes.
//!
//! ```
//! // 32 x 32 pixels of three bytes: sequences of 3,072 tokens in raster order.
//! let emoji = datasets::images::emoji()?;
//! assert_eq!((emoji.size(), emoji.train[0].pixels.len()), (3072, 3072));
//! assert_eq!(emoji.train[0].caption, "SMILING FACE WITH OPEN MOUTH");
//! # Ok::<(), datasets::Error>(())
//! ```

mod cifar;
mod emoji;
mod idx;
mod png;

pub use cifar::cifar10;
pub(crate) use emoji::{
    COLUMNS as EMOJI_COLUMNS, HEADER as EMOJI_HEADER, NAMES, SIDE as EMOJI_SIDE,
};
pub use emoji::{NOTO_EMOJI, emoji};
pub use idx::{FASHION_MNIST, Idx, fashion_mnist, read_idx};
pub(crate) use png::write_palette_png;
pub use png::{Picture, read_png};

use crate::error::{Result, value};
use crate::sequences::{Example, Sequences};

/// A picture, its class and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Row by row from the top, the channels of a pixel side by side: `[height, width, channel]`, 0 is black.
    pub pixels: Vec<u8>,
    /// Its class.
    pub label: u16,
    /// What it shows; empty where pictures have no names.
    pub caption: String,
}

/// Pictures of one size in three splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// What they are, for reports.
    pub name: String,
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Bytes of a pixel: 1 is grey, 3 are red, green and blue.
    pub channels: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// To learn from.
    pub train: Vec<Image>,
    /// To choose by.
    pub valid: Vec<Image>,
    /// To report.
    pub test: Vec<Image>,
}

impl Images {
    /// Bytes of a picture: width · height · channels.
    pub fn size(&self) -> usize {
        self.width * self.height * self.channels
    }

    /// The pictures in the middle of larger ones, whose other pixels are `background`: 28 pixels wide ones become 32, for example.
    ///
    /// # Errors
    /// A size below that of the pictures.
    pub fn padded(self, width: usize, height: usize, background: u8) -> Result<Self> {
        let fits = width >= self.width && height >= self.height && width.max(height) <= 1 << 12;
        if !fits {
            let expected = format!("at least {} x {}, at most 4096", self.width, self.height);
            return Err(value("size", format!("{width} x {height}"), &expected));
        }
        let (left, top) = ((width - self.width) / 2, (height - self.height) / 2);
        let row = self.width * self.channels;
        let pad = |image: Image| {
            let mut pixels = vec![background; width * height * self.channels];
            for (y, line) in image.pixels.chunks_exact(row.max(1)).enumerate() {
                let at = ((top + y) * width + left) * self.channels;
                pixels[at..at + row].copy_from_slice(line);
            }
            Image { pixels, ..image }
        };
        let all = |images: Vec<Image>| images.into_iter().map(pad).collect();
        Ok(Self {
            width,
            height,
            train: all(self.train),
            valid: all(self.valid),
            test: all(self.test),
            ..self
        })
    }

    /// The pictures in grey: 0.2989 red + 0.5870 green + 0.1140 blue, rounded. Grey ones stay what they are.
    pub fn grey(self) -> Self {
        if self.channels != 3 {
            return self;
        }
        let mix = |p: &[u8]| {
            let [r, g, b] = [p[0], p[1], p[2]].map(f64::from);
            (0.2989 * r + 0.5870 * g + 0.1140 * b).round() as u8
        };
        let grey = |image: Image| Image {
            pixels: image.pixels.chunks_exact(3).map(mix).collect(),
            ..image
        };
        let all = |images: Vec<Image>| images.into_iter().map(grey).collect();
        Self {
            channels: 1,
            train: all(self.train),
            valid: all(self.valid),
            test: all(self.test),
            ..self
        }
    }

    /// The bytes as ids in raster order, to be classified: the image task of the Long Range Arena. The id 0 is black.
    pub fn sequences(&self) -> Sequences {
        let example = |image: &Image| Example {
            ids: image.pixels.iter().map(|pixel| u16::from(*pixel)).collect(),
            label: image.label,
        };
        let all = |images: &[Image]| images.iter().map(example).collect();
        Sequences {
            name: self.name.clone(),
            train: all(&self.train),
            valid: all(&self.valid),
            test: all(&self.test),
            vocab_size: 256,
            classes: self.classes.len(),
        }
    }
}
