//! Pictures as bytes in raster order: where they come from, what to beat, and a file to look at.

use crate::paper::{BYTES, Frame};
use datasets::{CorpusSpec, SplitShares};
use std::path::Path;
use trainer::{Error, Reference, Result, Split};

/// The metric of pictures: mean cross-entropy per byte, in bits.
pub(crate) const METRIC: &str = "bits_per_dim";

/// Pictures of one size in three splits.
pub(crate) struct Pictures {
    pub name: String,
    pub frame: Frame,
    splits: [Vec<Vec<u8>>; 3],
}

impl Pictures {
    /// The pictures that the section `data` names: embedded or imported ones, or a file of raw bytes, picture after picture,
    /// `[height, width, channel]`.
    pub fn load(spec: &CorpusSpec, frame: Frame, base: &Path) -> Result<Self> {
        let plain = CorpusSpec {
            name: spec.name.clone(),
            path: spec.path.clone(),
            split: spec.split,
            ..CorpusSpec::default()
        };
        if *spec != plain {
            let expected = "only `name`, `path` and `split`: the others belong to texts";
            return Err(Error::value("data", "with keys of a text", expected));
        }
        match (&spec.name, &spec.path) {
            (Some(name), None) => Self::named(name, frame, base),
            (None, Some(path)) => Self::from_file(&base.join(path), spec.split, frame),
            _ => {
                let expected = "one of `name` and `path`";
                Err(Error::value("data", "without or with both", expected))
            }
        }
    }

    fn named(name: &str, frame: Frame, base: &Path) -> Result<Self> {
        use datasets::images::{FASHION_MNIST, Images, NOTO_EMOJI, emoji, fashion_mnist};
        let images: Images = match name {
            NOTO_EMOJI => emoji(),
            FASHION_MNIST => fashion_mnist(base).and_then(|i| {
                // Smaller pictures stand in the middle of a black frame.
                let (width, height) = (i.width.max(frame.width), i.height.max(frame.height));
                i.padded(width, height, 0)
            }),
            _ => {
                let expected =
                    format!("{NOTO_EMOJI} or {FASHION_MNIST}, or `path` for a file of bytes");
                return Err(Error::value("data.name", name, expected));
            }
        }
        .map_err(Error::other)?;
        let found = Frame {
            height: images.height,
            width: images.width,
            channels: images.channels,
        };
        if found != frame {
            let size = |f: Frame| format!("{} x {} x {}", f.height, f.width, f.channels);
            let at = "model.frame_height x model.frame_width x model.num_channels";
            let expected = format!("{}, the size of {}", size(found), images.name);
            return Err(Error::value(at, size(frame), expected));
        }
        let bytes = |split: Vec<datasets::images::Image>| {
            split.into_iter().map(|image| image.pixels).collect()
        };
        Ok(Self {
            name: images.name,
            frame,
            splits: [images.train, images.valid, images.test].map(bytes),
        })
    }

    fn from_file(path: &Path, split: SplitShares, frame: Frame) -> Result<Self> {
        let at = || format!("data.path {}", path.display());
        let bytes = std::fs::read(path)
            .map_err(|e| Error::value(at(), e, "a file of raw bytes, picture after picture"))?;
        let size = frame.size();
        if bytes.is_empty() || !bytes.len().is_multiple_of(size) {
            let expected = format!("a multiple of the {size} bytes of a picture");
            return Err(Error::value(
                at(),
                format!("{} bytes long", bytes.len()),
                expected,
            ));
        }
        let all: Vec<Vec<u8>> = bytes.chunks_exact(size).map(<[u8]>::to_vec).collect();
        let [train, valid, test] = [split.train, split.valid, split.test].map(|s| s as usize);
        let total = (train + valid + test).max(1);
        let first = all.len() * train / total;
        let second = all.len() * (train + valid) / total;
        let splits = [&all[..first], &all[first..second], &all[second..]].map(<[_]>::to_vec);
        if splits.iter().any(Vec::is_empty) {
            let found = format!("{} pictures in all", all.len());
            let expected = "at least one for each of train, valid and test";
            return Err(Error::value("data.split", found, expected));
        }
        Ok(Self {
            name: path.display().to_string(),
            frame,
            splits,
        })
    }

    /// The pictures of a split.
    pub fn split(&self, split: Split) -> &[Vec<u8>] {
        &self.splits[match split {
            Split::Train => 0,
            Split::Valid => 1,
            Split::Test => 2,
        }]
    }

    /// What a model of these pictures has to beat, in bits per byte of the first `count` test pictures: the statistics of
    /// each channel in the training pictures, alone and given the same channel of the pixel to the left.
    pub fn anchors(&self, count: usize) -> Vec<Reference> {
        let test = self.split(Split::Test);
        let test = &test[..count.min(test.len())];
        let channels = self.frame.channels;
        let row = self.frame.width * channels;
        let left = |picture: &[u8], t: usize| match t % row < channels {
            true => BYTES,
            false => usize::from(picture[t - channels]),
        };
        let alone = cost(self.split(Split::Train), test, channels, |_, t| {
            t % channels
        });
        let contexts = channels * (BYTES + 1);
        let given = cost(self.split(Split::Train), test, contexts, |picture, t| {
            t % channels * (BYTES + 1) + left(picture, t)
        });
        let reference = |(name, value): (&str, f64)| Reference {
            name: name.into(),
            metric: METRIC.into(),
            value,
        };
        [
            (
                "order-0 entropy of each channel, statistics of the training pictures",
                alone,
            ),
            ("the same given the pixel to the left", given),
        ]
        .map(reference)
        .to_vec()
    }
}

/// Bits per byte of `test` by counts of `train` within contexts, each count raised by a hundredth.
fn cost(
    train: &[Vec<u8>],
    test: &[Vec<u8>],
    contexts: usize,
    context: impl Fn(&[u8], usize) -> usize,
) -> f64 {
    let mut counts = vec![0.01f64; contexts * BYTES];
    let each = |picture: &[u8], visit: &mut dyn FnMut(usize, usize)| {
        for (t, byte) in picture.iter().enumerate() {
            visit(context(picture, t), usize::from(*byte));
        }
    };
    for picture in train {
        each(picture, &mut |c, byte| counts[c * BYTES + byte] += 1.0);
    }
    let totals: Vec<f64> = counts.chunks_exact(BYTES).map(|c| c.iter().sum()).collect();
    let (mut bits, mut bytes) = (0.0, 0usize);
    for picture in test {
        each(picture, &mut |c, byte| {
            bits -= (counts[c * BYTES + byte] / totals[c]).log2();
            bytes += 1;
        });
    }
    bits / bytes.max(1) as f64
}

/// Pictures side by side as a bitmap file (BMP, 24 bits), each pixel `zoom` wide; grey and colour.
pub(crate) fn bitmap(pictures: &[Vec<u8>], frame: Frame, zoom: usize) -> Vec<u8> {
    let (gap, side) = (zoom, frame.width * zoom);
    let width = pictures.len() * (side + gap) + gap;
    let height = frame.height * zoom + 2 * gap;
    let line = (width * 3).next_multiple_of(4);
    let mut out = Vec::with_capacity(54 + line * height);
    out.extend(b"BM");
    for n in [54 + line * height, 0, 54, 40, width, height] {
        out.extend((n as u32).to_le_bytes());
    }
    out.extend([1, 0, 24, 0]);
    out.extend([0; 24]);
    // From the bottom to the top, blue before green before red.
    for y in (0..height).rev() {
        let mut row = vec![0xC0; line];
        if y >= gap && y < gap + frame.height * zoom {
            for (i, picture) in pictures.iter().enumerate() {
                for x in 0..side {
                    let at = ((y - gap) / zoom * frame.width + x / zoom) * frame.channels;
                    let place = (gap + i * (side + gap) + x) * 3;
                    for (o, channel) in [2, 1, 0].into_iter().enumerate() {
                        let channel = channel.min(frame.channels - 1);
                        row[place + o] = picture.get(at + channel).copied().unwrap_or(0);
                    }
                }
            }
        }
        out.extend(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame {
        height: 2,
        width: 2,
        channels: 3,
    };

    #[test]
    fn anchors_are_cross_entropies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pictures.bin");
        // Every byte is 7 or 9, by turns from one picture to the next: one bit alone, none given its neighbour, but for
        // the pixels at the left edge.
        let pictures: Vec<u8> = (0..200u32)
            .flat_map(|i| [if i % 2 == 0 { 7 } else { 9 }; 12])
            .collect();
        std::fs::write(&path, &pictures).unwrap();
        let load = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Pictures::from_file(&path, SplitShares::default(), FRAME)
        };
        let all = load(&pictures).unwrap();
        let sizes = [Split::Train, Split::Valid, Split::Test].map(|s| all.split(s).len());
        assert_eq!(sizes, [180, 10, 10]);
        let anchors = all.anchors(10);
        assert!((anchors[0].value - 1.0).abs() < 0.02, "{anchors:?}");
        assert!((anchors[1].value - 0.5).abs() < 0.02, "{anchors:?}");
        for (bytes, part) in [
            (&pictures[..13], "a multiple of the 12 bytes"),
            (&[], "a multiple of the 12 bytes"),
            (&pictures[..24], "at least one for each"),
        ] {
            let message = load(bytes).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn bitmaps_hold_every_pixel() {
        let red = vec![255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0];
        let file = bitmap(&[red.clone(), red], FRAME, 3);
        // Two pictures of 6 x 6 points with a border of 3.
        let line = (2 * 9 + 3) * 3usize;
        assert_eq!(file.len(), 54 + line.next_multiple_of(4) * 12);
        assert_eq!(file[2..6], (file.len() as u32).to_le_bytes());
        let reds = file[54..]
            .chunks_exact(line.next_multiple_of(4))
            .flat_map(|l| l[..line].chunks_exact(3));
        assert_eq!(reds.filter(|p| *p == [0, 0, 255]).count(), 2 * 36);
        let grey = bitmap(
            &[vec![9; 4]],
            Frame {
                channels: 1,
                ..FRAME
            },
            1,
        );
        assert_eq!(grey[54 + 12 + 3..54 + 12 + 6], [9, 9, 9]);
    }
}
