//! CIFAR-10 in its binary form.

use std::path::Path;

use super::{Image, Images};
use crate::error::{Error, Result, io};

const CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];
const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// CIFAR-10: pictures of 32 x 32 pixels with three channels in 10 classes. The folder holds `data_batch_1.bin` to `data_batch_5.bin` and
/// `test_batch.bin`; the last tenth of the training pictures is valid.
///
/// # Errors
/// A file that is missing, cut off, or of another data set.
pub fn cifar10(folder: &Path) -> Result<Images> {
    let mut train = vec![];
    for batch in 1..=5 {
        train.extend(read(&folder.join(format!("data_batch_{batch}.bin")))?);
    }
    let test = read(&folder.join("test_batch.bin"))?;
    let valid = train.split_off(train.len() - train.len() / 10);
    Ok(Images {
        name: format!("CIFAR-10 of {}", folder.display()),
        width: SIDE,
        height: SIDE,
        channels: 3,
        classes: CLASSES.map(str::to_owned).into(),
        train,
        valid,
        test,
    })
}

/// Records of a label and the planes of red, green and blue.
fn read(path: &Path) -> Result<Vec<Image>> {
    let bytes = std::fs::read(path).map_err(io("read", path))?;
    let wrong = |message: String| Error::Layout {
        path: path.into(),
        message,
    };
    let record = 1 + 3 * PLANE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        let n = bytes.len();
        return Err(wrong(format!(
            "has {n} bytes, which is no multiple of a record's {record}; get it again"
        )));
    }
    let image = |(i, record): (usize, &[u8])| {
        let (label, planes) = (record[0], &record[1..]);
        if usize::from(label) >= CLASSES.len() {
            return Err(wrong(format!(
                "record {i} has the label {label}; expected 0 to 9"
            )));
        }
        let pixel = |at: usize| [planes[at], planes[PLANE + at], planes[2 * PLANE + at]];
        Ok(Image {
            pixels: (0..PLANE).flat_map(pixel).collect(),
            label: u16::from(label),
            caption: String::new(),
        })
    };
    bytes.chunks_exact(record).enumerate().map(image).collect()
}
