//! The embedded emoji of the Noto font: a sheet of 32 x 32 tiles, and a table of their names.

use std::collections::HashMap;
use std::path::Path;

use super::{Image, Images, read_png};
use crate::embedded;
use crate::error::{Error, Result};

/// Name of the embedded sheet.
pub const NOTO_EMOJI: &str = "noto-emoji";
/// Name of the embedded table.
pub(crate) const NAMES: &str = "noto-emoji-names";

/// Pixels of a tile from side to side.
pub(crate) const SIDE: usize = 32;
/// Tiles of a row.
pub(crate) const COLUMNS: usize = 58;
/// First line of the table.
pub(crate) const HEADER: &str = "image\tcategory\tname";

/// 1,682 emoji as pictures of 32 x 32 pixels with three channels over white; the classes are the eight categories. Faces and figures
/// that differ in their sex alone are in the same split.
///
/// # Errors
/// [`Error::Digest`] for a damaged build.
pub fn emoji() -> Result<Images> {
    let sheet = embedded::open(NOTO_EMOJI)?;
    let table = embedded::text(NAMES)?;
    cut(&sheet, &table)
}

fn cut(sheet: &[u8], table: &str) -> Result<Images> {
    let wrong = |message: String| Error::Layout {
        path: "embedded noto-emoji".into(),
        message,
    };
    let picture = read_png(sheet, Path::new("embedded noto-emoji"))?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(1)
        .map(|line| line.split('\t').collect())
        .collect();
    let needed = (COLUMNS * SIDE, rows.len().div_ceil(COLUMNS) * SIDE);
    if (picture.width, picture.height) != needed {
        let message = format!("the sheet is {} x {} pixels", picture.width, picture.height);
        return Err(wrong(message));
    }
    let mut classes: Vec<String> = vec![];
    let mut groups: HashMap<String, usize> = HashMap::new();
    let mut splits: [Vec<Image>; 3] = Default::default();
    for (tile, row) in rows.iter().enumerate() {
        let [image, category, name] = row[..] else {
            return Err(wrong(format!(
                "line {} of the table has not three columns",
                tile + 2
            )));
        };
        let label = classes
            .iter()
            .position(|class| class == category)
            .unwrap_or_else(|| {
                classes.push(category.to_owned());
                classes.len() - 1
            });
        let (left, top) = (tile % COLUMNS * SIDE, tile / COLUMNS * SIDE);
        let mut pixels = Vec::with_capacity(SIDE * SIDE * 3);
        for y in top..top + SIDE {
            let at = (y * picture.width + left) * 4;
            let line = picture.rgba[at..at + SIDE * 4].chunks_exact(4);
            pixels.extend(line.flat_map(|p| [p[0], p[1], p[2]]));
        }
        let next = groups.len();
        let group = *groups.entry(without_sex(image)).or_insert(next);
        let split = match group % 10 {
            0 | 5 => 2,
            3 => 1,
            _ => 0,
        };
        splits[split].push(Image {
            pixels,
            label: label as u16,
            caption: name.to_owned(),
        });
    }
    let [train, valid, test] = splits;
    Ok(Images {
        name: "Noto emoji".into(),
        width: SIDE,
        height: SIDE,
        channels: 3,
        classes,
        train,
        valid,
        test,
    })
}

/// The code points of an emoji without man, woman, person, the signs of their sex, and joiners.
fn without_sex(image: &str) -> String {
    const LEFT_OUT: [&str; 7] = ["1f468", "1f469", "1f9d1", "2640", "2642", "200d", "fe0f"];
    let stem = image.trim_end_matches(".png");
    let parts: Vec<&str> = stem
        .split('-')
        .filter(|part| !LEFT_OUT.contains(part))
        .collect();
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sexes_are_one_group() {
        for image in [
            "1f468-200d-1f33e.png",
            "1f469-200d-1f33e.png",
            "1f9d1-200d-1f33e.png",
        ] {
            assert_eq!(without_sex(image), "1f33e");
        }
        assert_eq!(
            without_sex("1f3c3-200d-2642-fe0f.png"),
            without_sex("1f3c3.png")
        );
    }

    #[test]
    fn a_sheet_of_another_size_is_refused() {
        let sheet = crate::images::write_palette_png(32, &[0; 32 * 32], &[[0; 3]]);
        let message = cut(&sheet, "image\tcategory\tname\na.png\tb\tc\n")
            .unwrap_err()
            .to_string();
        assert!(message.contains("32 x 32"), "{message}");
    }
}
