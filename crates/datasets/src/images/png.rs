//! PNG files as data sets use them: eight bits a channel, not interlaced.

use std::io::{Read, Write};
use std::path::Path;

use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

use crate::error::{Error, Result};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Pixels of the largest picture that is read.
const MOST_PIXELS: usize = 1 << 26;

/// A decoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Row by row: red, green, blue, alpha of each pixel.
    pub rgba: Vec<u8>,
}

impl Picture {
    /// Each pixel's brightness, by the weights of ITU-R BT.601; alpha does not count.
    pub fn grey(&self) -> Vec<u8> {
        let grey = |p: &[u8]| {
            let sum = 299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]);
            ((sum + 500) / 1000) as u8
        };
        self.rgba.chunks_exact(4).map(grey).collect()
    }
}

/// Decodes a PNG: grey, grey with alpha, RGB, RGBA or palette. `file` is only named in errors.
///
/// # Errors
/// [`Error::Layout`] for a damaged file, other depths and interlacing.
pub fn read_png(bytes: &[u8], file: &Path) -> Result<Picture> {
    decode(bytes).map_err(|message| Error::Layout {
        path: file.into(),
        message,
    })
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b))
}

fn decode(bytes: &[u8]) -> std::result::Result<Picture, String> {
    let cut = || "the PNG is damaged or cut off".to_string();
    let mut rest = bytes.strip_prefix(SIGNATURE).ok_or("is no PNG")?;
    let (mut header, mut palette, mut alphas, mut packed) = (None, &[][..], &[][..], Vec::new());
    loop {
        let length = number(rest.get(..4).ok_or_else(cut)?);
        let chunk = rest.get(4..8 + length).ok_or_else(cut)?;
        let sum = rest.get(8 + length..12 + length).ok_or_else(cut)?;
        let mut crc = Crc::new();
        crc.update(chunk);
        if crc.sum() as usize != number(sum) {
            return Err(cut());
        }
        let (kind, data) = chunk.split_at(4);
        match kind {
            b"IHDR" => header = Some(<[u8; 13]>::try_from(data).map_err(|_| cut())?),
            b"PLTE" => palette = data,
            b"tRNS" => alphas = data,
            b"IDAT" => packed.extend_from_slice(data),
            b"IEND" => break,
            _ => {}
        }
        rest = &rest[12 + length..];
    }
    let header = header.ok_or_else(cut)?;
    let (width, height) = (number(&header[..4]), number(&header[4..8]));
    let (depth, colour, interlaced) = (header[8], header[9], header[12]);
    if depth != 8 || interlaced != 0 {
        return Err(format!(
            "the PNG has {depth} bits a channel or is interlaced; convert it to 8 bits, not interlaced"
        ));
    }
    let channels = match colour {
        0 | 3 => 1,
        4 => 2,
        2 => 3,
        6 => 4,
        _ => return Err(cut()),
    };
    if width == 0 || height == 0 || width.saturating_mul(height) > MOST_PIXELS {
        return Err(format!("the PNG claims {width} x {height} pixels"));
    }
    let row = width * channels;
    let mut raw = Vec::new();
    ZlibDecoder::new(&*packed)
        .take((height * (row + 1)) as u64)
        .read_to_end(&mut raw)
        .map_err(|_| cut())?;
    if raw.len() != height * (row + 1) {
        return Err(cut());
    }
    let pixels = unfilter(raw, row, channels).ok_or_else(cut)?;
    let mut rgba = Vec::with_capacity(width * height * 4);
    for pixel in pixels.chunks_exact(channels) {
        rgba.extend(match *pixel {
            [index] if colour == 3 => {
                let at = usize::from(index);
                let rgb = palette.get(3 * at..3 * at + 3).ok_or_else(cut)?;
                [
                    rgb[0],
                    rgb[1],
                    rgb[2],
                    alphas.get(at).copied().unwrap_or(255),
                ]
            }
            [grey] => [grey, grey, grey, 255],
            [grey, alpha] => [grey, grey, grey, alpha],
            [r, g, b] => [r, g, b, 255],
            [r, g, b, a] => [r, g, b, a],
            _ => return Err(cut()),
        });
    }
    Ok(Picture {
        width,
        height,
        rgba,
    })
}

/// Undoes the prediction of each byte from the pixel to the left, the one above, and the one above that to the left.
fn unfilter(raw: Vec<u8>, row: usize, step: usize) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::with_capacity(raw.len());
    for line in raw.chunks_exact(row + 1) {
        let above = out.len().checked_sub(row);
        let start = out.len();
        for (i, byte) in line[1..].iter().enumerate() {
            let left = if i >= step { out[start + i - step] } else { 0 };
            let up = above.map_or(0, |at| out[at + i]);
            let corner = match above {
                Some(at) if i >= step => out[at + i - step],
                _ => 0,
            };
            let predicted = match line[0] {
                0 => 0,
                1 => left,
                2 => up,
                3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
                4 => paeth(left, up, corner),
                _ => return None,
            };
            out.push(byte.wrapping_add(predicted));
        }
    }
    Some(out)
}

/// Whichever of the three is nearest to left + up − corner, in this order.
fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let [a, b, c] = [left, up, corner].map(i32::from);
    let guess = a + b - c;
    let [da, db, dc] = [a, b, c].map(|x| (guess - x).abs());
    match (da <= db && da <= dc, db <= dc) {
        (true, _) => left,
        (_, true) => up,
        _ => corner,
    }
}

/// A PNG of palette indices, row by row; the palette has at most 256 colours.
pub(crate) fn write_palette_png(width: usize, indices: &[u8], palette: &[[u8; 3]]) -> Vec<u8> {
    let height = indices.len() / width.max(1);
    let mut out = SIGNATURE.to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(data);
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(kind);
        out.extend(data);
        out.extend(crc.sum().to_be_bytes());
    };
    let mut header = Vec::new();
    header.extend((width as u32).to_be_bytes());
    header.extend((height as u32).to_be_bytes());
    header.extend([8, 3, 0, 0, 0]);
    chunk(b"IHDR", &header);
    chunk(b"PLTE", palette.as_flattened());
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    for row in indices.chunks_exact(width.max(1)) {
        encoder
            .write_all(&[0])
            .and_then(|()| encoder.write_all(row))
            .expect("memory takes all that is written");
    }
    chunk(
        b"IDAT",
        &encoder.finish().expect("memory takes all that is written"),
    );
    chunk(b"IEND", &[]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(colour: u8, width: u32, height: u32, raw: &[u8]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
        header.extend([8, colour, 0, 0, 0]);
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(raw).unwrap();
        for (kind, data) in [
            (b"IHDR", header),
            (b"IDAT", encoder.finish().unwrap()),
            (b"IEND", vec![]),
        ] {
            let mut crc = Crc::new();
            crc.update(kind);
            crc.update(&data);
            out.extend((data.len() as u32).to_be_bytes());
            out.extend(kind);
            out.extend(&data);
            out.extend(crc.sum().to_be_bytes());
        }
        out
    }

    /// The filters as they are applied when a PNG is written.
    fn filtered(pixels: &[u8], row: usize, step: usize) -> Vec<u8> {
        let at = |y: isize, x: isize| match y >= 0 && x >= 0 {
            true => pixels[y as usize * row + x as usize],
            false => 0,
        };
        let mut raw = vec![];
        for y in 0..pixels.len() / row {
            let filter = (y % 5) as u8;
            raw.push(filter);
            for x in 0..row {
                let (y, x, step) = (y as isize, x as isize, step as isize);
                let (left, up, corner) = (at(y, x - step), at(y - 1, x), at(y - 1, x - step));
                let predicted = match filter {
                    0 => 0,
                    1 => left,
                    2 => up,
                    3 => ((usize::from(left) + usize::from(up)) / 2) as u8,
                    _ => paeth(left, up, corner),
                };
                raw.push(at(y, x).wrapping_sub(predicted));
            }
        }
        raw
    }

    #[test]
    fn all_filters_and_colour_types() {
        for (colour, channels) in [(0, 1), (4, 2), (2, 3), (6, 4)] {
            let row = 7 * channels;
            let pixels: Vec<u8> = (0..10 * row).map(|i| (i * i * 31 % 251) as u8).collect();
            let png = assemble(colour, 7, 10, &filtered(&pixels, row, channels));
            let picture = read_png(&png, Path::new("p")).unwrap();
            let expected: Vec<u8> = pixels
                .chunks(channels)
                .flat_map(|p| match *p {
                    [g] => [g, g, g, 255],
                    [g, a] => [g, g, g, a],
                    [r, g, b] => [r, g, b, 255],
                    [r, g, b, a] => [r, g, b, a],
                    _ => [0; 4],
                })
                .collect();
            assert_eq!(picture.rgba, expected, "colour type {colour}");
            if channels == 1 {
                assert_eq!(picture.grey(), pixels);
            }
        }
    }

    #[test]
    fn palettes_come_back() {
        let png = write_palette_png(2, &[0, 1, 1, 0], &[[1, 2, 3], [250, 251, 252]]);
        let picture = read_png(&png, Path::new("p")).unwrap();
        assert_eq!((picture.width, picture.height), (2, 2));
        assert_eq!(picture.rgba[..8], [1, 2, 3, 255, 250, 251, 252, 255]);
    }

    #[test]
    fn damage_is_an_error_at_every_byte() {
        let png = write_palette_png(2, &[0, 1, 1, 0], &[[1, 2, 3], [250, 251, 252]]);
        for at in 0..png.len() {
            assert!(read_png(&png[..at], Path::new("p")).is_err(), "cut at {at}");
            let mut other = png.clone();
            other[at] ^= 0x10;
            assert!(read_png(&other, Path::new("p")).is_err(), "changed at {at}");
        }
        let outside = write_palette_png(1, &[7], &[[0; 3]]);
        assert!(read_png(&outside, Path::new("p")).is_err());
        let message = read_png(&assemble(0, 1 << 20, 1 << 20, &[]), Path::new("p"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("claims"), "{message}");
    }
}
