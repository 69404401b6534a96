//! IDX files (LeCun's format of MNIST) and the data set that comes in them.

use std::path::Path;

use super::{Image, Images};
use crate::catalogue;
use crate::error::{Error, Result, io};
use crate::manifest::Manifest;

/// Name of the imported data set.
pub const FASHION_MNIST: &str = "fashion-mnist";

const CLASSES: [&str; 10] = [
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

/// Pictures of the training file that are kept for validation.
const VALID: usize = 5_000;

/// The content of an IDX file of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// Sizes, the first is the number of items.
    pub dims: Vec<usize>,
    /// The bytes, the last dimension fastest.
    pub data: Vec<u8>,
}

/// Reads an IDX file: two zero bytes, the type (8: bytes), the number of dimensions, their sizes as big-endian numbers of four bytes,
/// the data. `file` is only named in errors.
///
/// # Errors
/// [`Error::Layout`] for another type, and for a length that the sizes do not give.
pub fn read_idx(bytes: &[u8], file: &Path) -> Result<Idx> {
    let wrong = |message: String| Error::Layout {
        path: file.into(),
        message,
    };
    let [0, 0, kind, count, ..] = *bytes else {
        return Err(wrong(
            "is no IDX file: it must begin with two zero bytes".into(),
        ));
    };
    if kind != 8 {
        return Err(wrong(format!(
            "holds items of the IDX type {kind}; only 8 (bytes) is read"
        )));
    }
    let start = 4 + 4 * usize::from(count);
    let sizes = bytes
        .get(4..start)
        .ok_or_else(|| wrong("is cut off in its header".into()))?;
    let size = |b: &[u8]| b.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
    let dims: Vec<usize> = sizes.chunks_exact(4).map(size).collect();
    let needed = dims.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim));
    let data = &bytes[start..];
    if needed != Some(data.len()) {
        let n = data.len();
        return Err(wrong(format!(
            "has {n} bytes of data where its sizes {dims:?} need another number; get it again"
        )));
    }
    Ok(Idx {
        dims,
        data: data.into(),
    })
}

/// Fashion-MNIST: grey pictures of 28 x 28 pixels in 10 classes; 55,000 train, 5,000 valid, 10,000 test. It is looked for in the folder
/// `data` of `base` and of every folder above it, where `data import fashion-mnist` puts it.
///
/// # Errors
/// [`Error::Missing`] with the commands that get it, and what is wrong with the files.
pub fn fashion_mnist(base: &Path) -> Result<Images> {
    let folder = catalogue::locate(FASHION_MNIST, base)?;
    let manifest = Manifest::of_folder(&folder)?;
    let read = |name: &str, dims: usize| -> Result<Idx> {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).map_err(io("read", &path))?;
        if let Some(manifest) = &manifest {
            manifest.check(name, &bytes, &path.display().to_string())?;
        }
        let idx = read_idx(&bytes, &path)?;
        match idx.dims.len() == dims {
            true => Ok(idx),
            false => Err(Error::Layout {
                path,
                message: format!(
                    "has {} dimensions where {dims} are expected",
                    idx.dims.len()
                ),
            }),
        }
    };
    let mut splits = vec![];
    let mut sizes = vec![];
    for split in ["train", "t10k"] {
        let pictures = read(&format!("{split}-images-idx3-ubyte"), 3)?;
        let labels = read(&format!("{split}-labels-idx1-ubyte"), 1)?;
        let known = labels
            .data
            .iter()
            .all(|label| usize::from(*label) < CLASSES.len());
        if pictures.dims[0] != labels.dims[0] || !known || pictures.dims.contains(&0) {
            return Err(Error::Layout {
                path: folder,
                message: format!("the pictures and labels of {split} do not belong together"),
            });
        }
        let size = pictures.dims[1] * pictures.dims[2];
        let image = |(pixels, label): (&[u8], &u8)| Image {
            pixels: pixels.into(),
            label: u16::from(*label),
            caption: String::new(),
        };
        let images: Vec<Image> = pictures
            .data
            .chunks_exact(size)
            .zip(&labels.data)
            .map(image)
            .collect();
        splits.push(images);
        sizes.push((pictures.dims[1], pictures.dims[2]));
    }
    let (test, mut train) = (
        splits.pop().unwrap_or_default(),
        splits.pop().unwrap_or_default(),
    );
    if sizes[0] != sizes[1] || train.len() <= VALID {
        return Err(Error::Layout {
            path: folder,
            message: format!("expected pictures of one size, and more than {VALID} in train"),
        });
    }
    let valid = train.split_off(train.len() - VALID);
    Ok(Images {
        name: "Fashion-MNIST".into(),
        height: sizes[0].0,
        width: sizes[0].1,
        channels: 1,
        classes: CLASSES.map(str::to_owned).into(),
        train,
        valid,
        test,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idx_files_say_what_they_hold() {
        let good = [
            &[0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3][..],
            &[1, 2, 3, 4, 5, 6],
        ]
        .concat();
        let idx = read_idx(&good, Path::new("f")).unwrap();
        assert_eq!((idx.dims, idx.data), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        let huge = [&[0, 0, 8, 3][..], &[255; 12]].concat();
        let mut floats = good.clone();
        floats[2] = 13;
        for (bytes, part) in [
            (&good[..good.len() - 1], "has 5 bytes of data"),
            (&good[..9], "cut off in its header"),
            (&[1, 2, 3, 4], "is no IDX file"),
            (&[], "is no IDX file"),
            (&huge, "has 0 bytes of data"),
            (&floats, "type 13"),
        ] {
            let message = read_idx(bytes, Path::new("f")).unwrap_err().to_string();
            assert!(
                message.starts_with("f: ") && message.contains(part),
                "{message}"
            );
        }
    }
}
