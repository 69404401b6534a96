//! A sheet of the Noto font's emoji, and the table of their names.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::archive::Found;
use crate::images::{EMOJI_COLUMNS, EMOJI_HEADER, EMOJI_SIDE, read_png, write_palette_png};
use crate::labelled::one_line;

/// Tiles of the package are twice as large.
const LARGE: usize = 2 * EMOJI_SIDE;
const COLOURS: usize = 256;

#[derive(Deserialize)]
struct Entry {
    name: Option<String>,
    image: String,
    category: String,
    sort_order: u32,
    has_img_google: bool,
}

pub(super) fn is_table(path: &str) -> bool {
    path == "emoji.json" || path.ends_with("/emoji.json")
}

pub(super) fn is_part(path: &str) -> bool {
    is_table(path) || path.contains("img/google/64/")
}

/// Base emoji without symbols and components, in the order of the standard.
fn entries(found: &[Found]) -> Result<Vec<Entry>, String> {
    let (_, json) = found
        .iter()
        .find(|(path, _)| is_table(path))
        .ok_or("there is no emoji.json")?;
    let mut entries: Vec<Entry> =
        serde_json::from_slice(json).map_err(|error| format!("emoji.json: {error}"))?;
    entries.retain(|e| e.has_img_google && !matches!(e.category.as_str(), "Symbols" | "Component"));
    entries.sort_by_key(|entry| entry.sort_order);
    Ok(entries)
}

pub(super) fn names(found: Vec<Found>) -> Result<Vec<u8>, String> {
    let mut out = format!("{EMOJI_HEADER}\n");
    for entry in entries(&found)? {
        let name = one_line(&entry.name.unwrap_or_default());
        out.push_str(&format!("{}\t{}\t{name}\n", entry.image, entry.category));
    }
    Ok(out.into_bytes())
}

type Colour = [u8; 3];

pub(super) fn sheet(found: Vec<Found>) -> Result<Vec<u8>, String> {
    let entries = entries(&found)?;
    let files: HashMap<&str, &[u8]> = found
        .iter()
        .map(|(path, content)| (path.rsplit('/').next().unwrap_or(path), &**content))
        .collect();
    let rows = entries.len().div_ceil(EMOJI_COLUMNS);
    let width = EMOJI_COLUMNS * EMOJI_SIDE;
    let mut sheet = vec![[255; 3]; width * rows * EMOJI_SIDE];
    for (tile, entry) in entries.iter().enumerate() {
        let image = &entry.image;
        let file = files
            .get(image.as_str())
            .ok_or(format!("there is no picture {image}"))?;
        let (left, top) = (
            tile % EMOJI_COLUMNS * EMOJI_SIDE,
            tile / EMOJI_COLUMNS * EMOJI_SIDE,
        );
        for (i, colour) in halved(file, image)?.into_iter().enumerate() {
            sheet[(top + i / EMOJI_SIDE) * width + left + i % EMOJI_SIDE] = colour;
        }
    }
    let (palette, nearest) = palette(&sheet);
    let indices: Vec<u8> = sheet.iter().map(|colour| nearest[colour]).collect();
    Ok(write_palette_png(width, &indices, &palette))
}

/// A picture over white, each four pixels averaged to one.
fn halved(file: &[u8], image: &str) -> Result<Vec<Colour>, String> {
    let picture = read_png(file, image.as_ref()).map_err(|error| error.to_string())?;
    if (picture.width, picture.height) != (LARGE, LARGE) {
        return Err(format!("{image} is not {LARGE} x {LARGE} pixels"));
    }
    let over_white = |x: usize, y: usize, channel: usize| {
        let pixel = &picture.rgba[(y * LARGE + x) * 4..][..4];
        let (colour, alpha) = (u32::from(pixel[channel]), u32::from(pixel[3]));
        (colour * alpha + 255 * (255 - alpha) + 127) / 255
    };
    let mean = |x: usize, y: usize, channel: usize| {
        let corners = [(0, 0), (1, 0), (0, 1), (1, 1)];
        let sum: u32 = corners
            .iter()
            .map(|(dx, dy)| over_white(2 * x + dx, 2 * y + dy, channel))
            .sum();
        ((sum + 2) / 4) as u8
    };
    let tiles = (0..EMOJI_SIDE).flat_map(|y| (0..EMOJI_SIDE).map(move |x| (x, y)));
    Ok(tiles
        .map(|(x, y)| [0, 1, 2].map(|channel| mean(x, y, channel)))
        .collect())
}

/// A set of colours with their numbers of pixels.
struct Cell(Vec<(Colour, u64)>);

impl Cell {
    /// Sum of the squared distances to the mean along each channel.
    fn spread(&self) -> [f64; 3] {
        let n: f64 = self.0.iter().map(|(_, n)| *n as f64).sum();
        [0, 1, 2].map(|channel| {
            let value = |colour: &Colour| f64::from(colour[channel]);
            let sum: f64 = self.0.iter().map(|(c, n)| value(c) * *n as f64).sum();
            let squares: f64 = self
                .0
                .iter()
                .map(|(c, n)| value(c) * value(c) * *n as f64)
                .sum();
            squares - sum * sum / n
        })
    }

    fn mean(&self) -> Colour {
        let n: u64 = self.0.iter().map(|(_, n)| n).sum();
        [0, 1, 2].map(|channel| {
            let sum: u64 = self.0.iter().map(|(c, n)| u64::from(c[channel]) * n).sum();
            ((sum + n / 2) / n) as u8
        })
    }

    /// Cuts at the mean of the channel with the largest spread.
    fn cut(self) -> (Self, Self) {
        let spread = self.spread();
        let channel = (0..3)
            .max_by(|a, b| spread[*a].total_cmp(&spread[*b]))
            .unwrap_or(0);
        let mean = self.mean()[channel];
        let low = self.0.iter().map(|(c, _)| c[channel]).min().unwrap_or(0);
        // Both sides keep a colour.
        let limit = mean.max(low + 1);
        let (below, above) = self.0.into_iter().partition(|(c, _)| c[channel] < limit);
        (Self(below), Self(above))
    }
}

/// At most 256 colours for a picture, by cutting the set of its colours where they differ most, and the nearest of them for each
/// colour. The most frequent colour, the background, stays what it is.
fn palette(pixels: &[Colour]) -> (Vec<Colour>, HashMap<Colour, u8>) {
    let mut counts: BTreeMap<Colour, u64> = BTreeMap::new();
    for pixel in pixels {
        *counts.entry(*pixel).or_insert(0) += 1;
    }
    let background = counts
        .iter()
        .max_by_key(|(_, n)| **n)
        .map_or([255; 3], |(c, _)| *c);
    let others: Vec<(Colour, u64)> = counts
        .iter()
        .filter(|(c, _)| **c != background)
        .map(|(c, n)| (*c, *n))
        .collect();
    let mut cells = vec![];
    if !others.is_empty() {
        cells.push(Cell(others));
    }
    while cells.len() + 1 < COLOURS {
        let total = |cell: &Cell| cell.spread().iter().sum::<f64>();
        let widest = (0..cells.len())
            .filter(|i| cells[*i].0.len() > 1)
            .max_by(|a, b| total(&cells[*a]).total_cmp(&total(&cells[*b])));
        let Some(widest) = widest else {
            break;
        };
        let (below, above) = cells.swap_remove(widest).cut();
        cells.extend([below, above]);
    }
    let mut palette = vec![background];
    palette.extend(cells.iter().map(Cell::mean));
    palette[1..].sort_unstable();
    let distance = |a: &Colour, b: &Colour| -> u32 {
        let squares = a
            .iter()
            .zip(b)
            .map(|(x, y)| u32::from(x.abs_diff(*y)).pow(2));
        squares.sum()
    };
    let nearest = |colour: &Colour| {
        let best = (0..palette.len()).min_by_key(|i| distance(colour, &palette[*i]));
        best.unwrap_or(0) as u8
    };
    let nearest = counts
        .keys()
        .map(|colour| (*colour, nearest(colour)))
        .collect();
    (palette, nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_colours_stay_what_they_are() {
        let colours: Vec<Colour> = (0..200).map(|i| [i, 255 - i, i / 2]).collect();
        let pixels: Vec<Colour> = [colours.clone(), vec![[255; 3]; 10]].concat();
        let (palette, nearest) = palette(&pixels);
        assert_eq!(palette.len(), 201);
        assert!(
            colours
                .iter()
                .all(|c| palette[usize::from(nearest[c])] == *c)
        );
    }

    #[test]
    fn many_colours_are_merged_with_near_ones() {
        let pixels: Vec<Colour> = (0..40_000u32)
            .map(|i| [(i % 200) as u8, (i / 200) as u8, 0])
            .collect();
        let (palette, nearest) = palette(&pixels);
        assert_eq!(palette.len(), 256);
        let worst = pixels.iter().map(|c| {
            let near = palette[usize::from(nearest[c])];
            c.iter()
                .zip(near)
                .map(|(a, b)| a.abs_diff(b))
                .max()
                .unwrap_or(0)
        });
        // A grid of 16 x 16 cells would be 12.5 wide.
        assert!(worst.max().unwrap_or(0) <= 16);
    }

    fn package() -> Vec<Found> {
        let entry = |image: &str, category: &str, order: u32| {
            format!(
                r#"{{"name":"{image}","image":"{image}.png","category":"{category}","sort_order":{order},"has_img_google":true,"x":1}}"#
            )
        };
        let json = format!(
            "[{},{},{}]",
            entry("b", "Objects", 2),
            entry("s", "Symbols", 3),
            entry("a", "Flags", 1)
        );
        let tile = |c: Colour| write_palette_png(64, &[0; 64 * 64], &[c]);
        vec![
            ("package/emoji.json".into(), json.into_bytes()),
            ("package/img/google/64/a.png".into(), tile([9, 8, 7])),
            ("package/img/google/64/b.png".into(), tile([1, 2, 3])),
        ]
    }

    #[test]
    fn tiles_stand_in_the_order_of_the_table() {
        assert_eq!(
            String::from_utf8(names(package()).unwrap()).unwrap(),
            "image\tcategory\tname\na.png\tFlags\ta\nb.png\tObjects\tb\n"
        );
        let sheet = read_png(&sheet(package()).unwrap(), "s".as_ref()).unwrap();
        assert_eq!((sheet.width, sheet.height), (58 * 32, 32));
        assert_eq!(sheet.rgba[..4], [9, 8, 7, 255]);
        assert_eq!(sheet.rgba[4 * 32..][..4], [1, 2, 3, 255]);
        assert_eq!(sheet.rgba[4 * 64..][..4], [255, 255, 255, 255]);
        let message = super::sheet(package().into_iter().take(2).collect()).unwrap_err();
        assert!(message.contains("no picture b.png"), "{message}");
    }
}
