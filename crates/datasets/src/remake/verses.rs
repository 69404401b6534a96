//! The New Testament in three translations, verse by verse, out of SWORD modules.
//!
//! A module of the kind `zText` keeps each testament in three files: `.bzs` says where the compressed blocks lie in `.bzz`, `.bzv`
//! says for each slot of the versification in which block, from where on and how long its text is. Slots are the module's and the
//! testament's heading, and for each book its heading and for each chapter a heading and the verses.

use std::io::Read;

use flate2::read::ZlibDecoder;

use crate::archive::Found;
use crate::labelled::one_line;
use crate::verses::{BOOKS, HEADER};

const MODULES: [&str; 3] = ["engKJV2006eb", "engWEB2015eb", "spaRV1909eb"];
const FILES: [&str; 3] = ["nt.bzs", "nt.bzv", "nt.bzz"];

/// The largest verse is far below; one of the WEB is cleaned to 17,521 characters, because its markup is never closed.
const LONGEST: usize = 600;
/// No block of these modules unpacks to more.
const LARGEST_BLOCK: u64 = 1 << 26;

/// The module and the file that a path names.
fn part_of(path: &str) -> Option<(usize, usize)> {
    let mut parts = path.rsplit('/');
    let file = parts.next()?;
    let folder = parts.next()?;
    let module = MODULES.iter().position(|module| *module == folder)?;
    Some((module, FILES.iter().position(|name| *name == file)?))
}

pub(super) fn is_part(path: &str) -> bool {
    part_of(path).is_some()
}

/// The table of all verses that all three translations have.
pub(super) fn table(found: Vec<Found>) -> Result<Vec<u8>, String> {
    let mut files: [[Vec<u8>; 3]; 3] = Default::default();
    for (path, content) in found {
        if let Some((module, file)) = part_of(&path) {
            files[module][file] = content;
        }
    }
    let mut slots = Vec::new();
    for (module, [blocks, verses, text]) in MODULES.iter().zip(&files) {
        let found = slots_of(blocks, verses, text);
        slots.push(found.map_err(|message| format!("{module}: {message}"))?);
    }
    let counted = 2 + BOOKS.iter().map(|book| 1 + book.slots()).sum::<usize>();
    for (module, (slots, extra)) in MODULES.iter().zip(slots.iter().zip([0, 2, 0])) {
        if slots.len() != counted + extra {
            let (n, expected) = (slots.len(), counted + extra);
            return Err(format!(
                "{module} has {n} slots where {expected} are expected"
            ));
        }
    }
    let mut out = format!("{HEADER}\n");
    let mut slot = 2;
    for book in &BOOKS {
        slot += 1;
        for (chapter, verses) in book.chapters.iter().enumerate() {
            slot += 1;
            for verse in 1..=usize::from(*verses) {
                let texts = [&slots[0][slot], &slots[1][web_slot(slot)], &slots[2][slot]];
                slot += 1;
                let texts = texts.map(|text| clean(text));
                if texts
                    .iter()
                    .all(|text| (1..=LONGEST).contains(&text.chars().count()))
                {
                    let (code, chapter) = (book.code, chapter + 1);
                    out.push_str(&format!("{code} {chapter}:{verse}\t{}\n", texts.join("\t")));
                }
            }
        }
    }
    Ok(out.into_bytes())
}

/// The WEB counts one verse more at the end of the third letter of John, and one more at the end of Revelation 12.
fn web_slot(kjv: usize) -> usize {
    kjv + usize::from(kjv >= 7792) + usize::from(kjv >= 8043)
}

fn slots_of(blocks: &[u8], verses: &[u8], text: &[u8]) -> Result<Vec<String>, String> {
    if blocks.is_empty() || verses.is_empty() || text.is_empty() {
        return Err(format!("one of the files {} is missing", FILES.join(", ")));
    }
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0usize, |n, b| n << 8 | usize::from(*b))
    };
    let mut unpacked = Vec::new();
    for record in blocks.chunks_exact(12) {
        let (from, length) = (number(&record[..4]), number(&record[4..8]));
        let packed = text
            .get(from..from + length)
            .ok_or("a block lies outside of nt.bzz")?;
        let mut block = Vec::new();
        ZlibDecoder::new(packed)
            .take(LARGEST_BLOCK)
            .read_to_end(&mut block)
            .map_err(|error| format!("a block is damaged: {error}"))?;
        unpacked.push(block);
    }
    let slot = |record: &[u8]| {
        let (block, from, length) = (
            number(&record[..4]),
            number(&record[4..8]),
            number(&record[8..]),
        );
        if length == 0 {
            return Ok(String::new());
        }
        let bytes = unpacked
            .get(block)
            .and_then(|block| block.get(from..from + length));
        let bytes = bytes.ok_or("a verse lies outside of its block")?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    verses.chunks_exact(10).map(slot).collect()
}

/// Stands where an element was that may have parted two words.
const SEAM: char = '\u{1}';

/// The text without notes, titles, signs of paragraphs and markup.
fn clean(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once('<') {
        out.push_str(before);
        let Some((tag, after)) = tag.split_once('>') else {
            rest = "";
            break;
        };
        rest = after;
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap_or("");
        let whole = matches!(name, "note" | "title");
        if whole || name == "transChange" {
            out.push(SEAM);
        }
        if whole && !tag.starts_with('/') && !tag.ends_with('/') {
            let end = format!("</{name}>");
            rest = after
                .find(&end)
                .map_or(after, |at| &after[at + end.len()..]);
        }
    }
    out.push_str(rest);
    for (entity, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
        ("¶", " "),
    ] {
        out = out.replace(entity, character);
    }
    one_line(&joined(&out))
}

/// The text with a blank at each seam between a word (or what ends one) and a word.
fn joined(text: &str) -> String {
    let mut out = String::new();
    let mut pieces = text.split(SEAM).filter(|piece| !piece.is_empty());
    out.push_str(pieces.next().unwrap_or(""));
    for piece in pieces {
        let ends = out.ends_with(|c: char| c.is_alphanumeric() || ",.;:?!)”’".contains(c));
        if ends && piece.starts_with(char::is_alphanumeric) {
            out.push(' ');
        }
        out.push_str(piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn markup_is_removed() {
        for (text, expected) in [
            (
                "<w lemma=\"x\">In</w> the <note type=\"f\">or <i>at</i> the</note>beginning",
                "In the beginning",
            ),
            ("Christ,<note>x</note><w>the</w> son", "Christ, the son"),
            ("brothers<note>x</note>, loved", "brothers, loved"),
            (
                "¶ Y<transChange>era</transChange>: (<transChange>a</transChange>)",
                "Y era: (a)",
            ),
            (
                "<title>A psalm</title><lb/>Blessed  are\nthe",
                "Blessed are the",
            ),
            ("<note/>Salt &amp; light <", "Salt & light"),
            ("<note>never closed", "never closed"),
        ] {
            assert_eq!(clean(text), expected);
        }
    }

    /// One block with all texts, and a record for each slot.
    fn module(name: &str, slots: usize, text: &dyn Fn(usize) -> String) -> Vec<Found> {
        let (mut block, mut verses) = (Vec::new(), Vec::new());
        for slot in 0..slots {
            let text = text(slot);
            verses.extend([0; 4]);
            verses.extend((block.len() as u32).to_le_bytes());
            verses.extend((text.len() as u16).to_le_bytes());
            block.extend(text.into_bytes());
        }
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&block).unwrap();
        let packed = encoder.finish().unwrap();
        let mut blocks = vec![0; 4];
        blocks.extend((packed.len() as u32).to_le_bytes());
        blocks.extend((block.len() as u32).to_le_bytes());
        let files = [blocks, verses, packed];
        let named = FILES
            .iter()
            .zip(files)
            .map(|(file, content)| (format!("a/{name}/{file}"), content));
        named.collect()
    }

    fn modules(web_slots: usize) -> Vec<Found> {
        let plain = |slot: usize| format!("<q>slot {slot}</q>");
        let web = |slot: usize| match slot {
            4 => "x".repeat(LONGEST + 1),
            slot => plain(slot),
        };
        let mut found = module(MODULES[0], 8246, &plain);
        found.extend(module(MODULES[1], web_slots, &web));
        found.extend(module(MODULES[2], 8246, &plain));
        found
    }

    #[test]
    fn slots_become_verses() {
        let table = String::from_utf8(table(modules(8248)).unwrap()).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        // 7,957 verses less the one that is too long in the WEB, which is the very first.
        assert_eq!(lines.len(), 1 + 7956);
        assert_eq!(lines[1], "MAT 1:2\tslot 5\tslot 5\tslot 5");
        assert_eq!(lines[7956], "REV 22:21\tslot 8245\tslot 8247\tslot 8245");
    }

    #[test]
    fn other_modules_are_refused() {
        let message = table(modules(8246)).unwrap_err();
        assert!(
            message.contains("engWEB2015eb has 8246 slots where 8248"),
            "{message}"
        );
        let message = table(modules(8248).split_off(3)).unwrap_err();
        assert!(
            message.contains("engKJV2006eb: one of the files"),
            "{message}"
        );
        let mut damaged = modules(8248);
        damaged[2].1.truncate(100);
        assert!(table(damaged).is_err());
    }
}
