//! Tensor2Tensor's sub-word vocabularies: one quoted piece per line, read as the released models were trained with them.
//!
//! A text is cut into runs of letters and digits and runs of everything else; a single blank between two runs is left out.
//! Each run is escaped (`\` becomes `\\`, `_` becomes `\u`, a character that the vocabulary does not have becomes its number
//! as in `\8364;`), ended by `_`, and cut into the longest pieces from left to right.
//!
//! ```
//! use datasets::SubwordsT2t;
//!
//! let lines = "'<pad>'\n'<EOS>'\n'the_'\n'whale'\n's_'\n'_'\n'. '\n'\\'\n'u'\n';'\n'0'\n'1'\n'2'\n'3'\n'4'\n'5'\n'6'\n'7'\n'8'\n'9'\n\
//!     't'\n'h'\n'e'\n'w'\n'a'\n'l'\n's'\n'.'\n' '\n";
//! let vocabulary = SubwordsT2t::from_lines(lines, "vocab.subwords")?;
//! let ids = vocabulary.encode("the whales. the");
//! assert_eq!(ids, [2, 3, 4, 6, 5, 2]);
//! assert_eq!(vocabulary.decode(&ids)?, "the whales. the");
//! # Ok::<(), datasets::Error>(())
//! ```

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::error::{Error, Result, io};

/// The id of padding.
pub const PAD: u32 = 0;
/// The id that ends a sample.
pub const END: u32 = 1;

/// A sub-word vocabulary of Tensor2Tensor.
#[derive(Debug, Clone)]
pub struct SubwordsT2t {
    pieces: Vec<String>,
    ids: HashMap<String, u32>,
    alphabet: HashSet<char>,
    /// Characters of the longest piece.
    longest: usize,
}

impl SubwordsT2t {
    /// Reads a vocabulary file, such as the released `vocab.pg19_length8k.32768.subwords`.
    ///
    /// # Errors
    /// A file that cannot be read, and those of [`SubwordsT2t::from_lines`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(io("read", path))?;
        Self::from_lines(&text, &path.display().to_string())
    }

    /// A vocabulary of these lines; the first two are padding and the end of a sample. `file` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Json`] naming the line where a file is none of this kind: other first lines, or a character of an escape
    /// that is no piece of its own, so that some text could not be cut.
    pub fn from_lines(lines: &str, file: &str) -> Result<Self> {
        let wrong = |message: String| Error::Json {
            file: file.into(),
            message,
        };
        let pieces: Vec<String> = lines.lines().map(unquoted).map(str::to_owned).collect();
        for (line, name) in ["<pad>", "<EOS>"].into_iter().enumerate() {
            let found = pieces.get(line).map_or("", String::as_str);
            // Older files write the end with an underscore.
            if !found.trim_end_matches('_').eq_ignore_ascii_case(name) {
                return Err(wrong(format!(
                    "line {}: {found:?}, expected {name:?}: a sub-word vocabulary of Tensor2Tensor has one quoted piece per line, these two first",
                    line + 1
                )));
            }
        }
        let mut ids = HashMap::new();
        let mut alphabet: HashSet<char> = "\\_u;0123456789".chars().collect();
        for (id, piece) in pieces.iter().enumerate() {
            alphabet.extend(piece.chars());
            // Of equal lines the last one counts, as in the reference; the first two are no text.
            if id as u32 > END && !piece.is_empty() {
                ids.insert(piece.clone(), id as u32);
            }
        }
        let alone = |c: &char| ids.contains_key(c.to_string().as_str());
        let escapes: HashSet<char> = "\\_u;0123456789".chars().collect();
        if let Some(missing) = escapes.iter().find(|c| !alone(c)) {
            return Err(wrong(format!(
                "no line holds {missing:?} alone, which escapes need; get the file again"
            )));
        }
        // A character that is only part of longer pieces cannot be relied on and is written by its number.
        alphabet.retain(|c| alone(c));
        let longest = ids.keys().map(|p| p.chars().count()).max().unwrap_or(0);
        Ok(Self {
            pieces,
            ids,
            alphabet,
            longest,
        })
    }

    /// Number of ids, padding and end included.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Never: padding and end are always there.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Ids of a text, without an end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut out = vec![];
        for run in runs(text) {
            let escaped: Vec<char> = self.escaped(run).chars().collect();
            let mut at = 0;
            while at < escaped.len() {
                let most = self.longest.min(escaped.len() - at);
                let piece = (1..=most).rev().find_map(|n| {
                    let piece: String = escaped[at..at + n].iter().collect();
                    Some((n, *self.ids.get(&piece)?))
                });
                // Every character is a piece of its own or was escaped.
                let Some((n, id)) = piece else { break };
                out.push(id);
                at += n;
            }
        }
        out
    }

    fn escaped(&self, run: &str) -> String {
        let mut out = String::new();
        for c in run.replace('\\', "\\\\").replace('_', "\\u").chars() {
            match self.alphabet.contains(&c) && c != '\n' {
                true => out.push(c),
                false => out.push_str(&format!("\\{};", c as u32)),
            }
        }
        out.push('_');
        out
    }

    /// The text of ids; padding and ends are left out.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut all = String::new();
        for id in ids.iter().filter(|id| **id > END) {
            all.push_str(self.piece(*id)?);
        }
        let runs = all.split('_').filter(|run| !run.is_empty()).map(unescaped);
        let mut out = String::new();
        let mut before = None;
        for run in runs.filter(|run| !run.is_empty()) {
            let word = run.chars().next().is_some_and(is_word);
            if word && before == Some(true) {
                out.push(' ');
            }
            before = Some(word);
            out.push_str(&run);
        }
        Ok(out)
    }

    /// Whether this piece is the end of a run of letters or of other characters.
    pub fn ends_word(&self, id: u32) -> bool {
        self.piece(id).is_ok_and(|piece| piece.ends_with('_'))
    }

    fn piece(&self, id: u32) -> Result<&str> {
        let piece = self.pieces.get(id as usize);
        piece.map(String::as_str).ok_or(Error::TokenId {
            id,
            len: self.pieces.len(),
        })
    }

    /// Samples of at most `length` ids, as the released model was trained on them: lines are put one behind another, across
    /// books, until the next one would reach `length`; then an end follows. The last sample is filled up with padding, a line
    /// that is too long by itself is cut.
    pub fn samples<'a>(
        &self,
        lines: impl IntoIterator<Item = &'a str>,
        length: usize,
    ) -> Vec<Vec<u32>> {
        let mut samples = vec![];
        let mut open: Vec<u32> = vec![];
        let room = length.saturating_sub(1).max(1);
        let close = |open: &mut Vec<u32>, samples: &mut Vec<Vec<u32>>| {
            let mut sample = std::mem::take(open);
            if !sample.is_empty() {
                sample.push(END);
                samples.push(sample);
            }
        };
        for line in lines {
            let ids = self.encode(line);
            if open.len() + ids.len() >= length {
                close(&mut open, &mut samples);
            }
            for part in ids.chunks(room) {
                if open.len() + part.len() > room {
                    close(&mut open, &mut samples);
                }
                open.extend(part);
            }
        }
        close(&mut open, &mut samples);
        if let Some(last) = samples.last_mut() {
            last.resize(length.max(last.len()), PAD);
        }
        samples
    }
}

/// A line without the quotes around it.
fn unquoted(line: &str) -> &str {
    let line = line.trim_end();
    for quote in ['\'', '"'] {
        let inner = line.strip_prefix(quote).and_then(|l| l.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    line
}

/// Letters and numbers. The reference asks for the Unicode categories L and N; the few marks and symbols that are alphabetic
/// without being letters count here as well.
fn is_word(c: char) -> bool {
    c.is_alphanumeric()
}

/// Runs of letters and digits and runs of the rest; a run that is one blank is left out unless the text begins with it.
fn runs(text: &str) -> Vec<&str> {
    let mut runs = vec![];
    let mut start = 0;
    let mut before: Option<bool> = None;
    for (at, c) in text.char_indices() {
        let word = is_word(c);
        if before.is_some_and(|b| b != word) {
            runs.push((start, &text[start..at]));
            start = at;
        }
        before = Some(word);
    }
    let last = runs.len();
    if start < text.len() {
        runs.push((start, &text[start..]));
    }
    // The last run stays, whatever it is.
    let kept = runs.into_iter().enumerate();
    kept.filter(|(i, (start, run))| *run != " " || *start == 0 || *i == last)
        .map(|(_, (_, run))| run)
        .collect()
}

/// An escape that is none, or the number of no character, becomes U+3013 as in the reference.
fn unescaped(run: &str) -> String {
    let mut out = String::new();
    let mut rest = run;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        if let Some(after) = behind.strip_prefix('u') {
            out.push('_');
            rest = after;
        } else if let Some(after) = behind.strip_prefix('\\') {
            out.push('\\');
            rest = after;
        } else if digits > 0 && behind[digits..].starts_with(';') {
            let number: Option<u32> = behind[..digits].parse().ok();
            out.push(number.and_then(char::from_u32).unwrap_or('\u{3013}'));
            rest = &behind[digits + 1..];
        } else {
            out.push('\\');
            rest = behind;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(more: &[&str]) -> SubwordsT2t {
        let mut lines = vec!["'<pad>'".to_owned(), "'<EOS>'".to_owned()];
        let alone = "\\_u;0123456789abcdefgh .,!\"'";
        lines.extend(alone.chars().map(|c| format!("'{c}'")));
        lines.extend(more.iter().map(|piece| format!("'{piece}'")));
        SubwordsT2t::from_lines(&lines.join("\n"), "test.subwords").unwrap()
    }

    fn spelled(v: &SubwordsT2t, text: &str) -> Vec<String> {
        let ids = v.encode(text);
        ids.iter()
            .map(|id| v.piece(*id).unwrap().to_owned())
            .collect()
    }

    #[test]
    fn runs_are_cut_as_the_reference_cuts_them() {
        assert_eq!(runs("abc de, f"), ["abc", "de", ", ", "f"]);
        assert_eq!(runs(" a"), [" ", "a"]);
        assert_eq!(runs("a "), ["a", " "]);
        assert_eq!(runs("a  b"), ["a", "  ", "b"]);
        assert_eq!(runs("a7é.\n"), ["a7é", ".\n"]);
        assert!(runs("").is_empty());
    }

    #[test]
    fn the_longest_piece_wins_and_unknown_characters_are_numbers() {
        let v = vocabulary(&["abc_", "ab", "bc_", ". "]);
        assert_eq!(spelled(&v, "abc ab"), ["abc_", "ab", "_"]);
        assert_eq!(spelled(&v, "aab. b"), ["a", "ab", "_", ". ", "_", "b", "_"]);
        assert_eq!(spelled(&v, "€")[..3], ["\\", "8", "3"]);
        assert_eq!(spelled(&v, "_"), ["\\", "u", "_"]);
        assert_eq!(spelled(&v, "\\"), ["\\", "\\", "_"]);
        // A line break is a number even where the vocabulary has the character.
        assert_eq!(spelled(&v, "\n"), ["\\", "1", "0", ";", "_"]);
    }

    #[test]
    fn every_text_comes_back() {
        let v = vocabulary(&["abc_", "ab", "bc_", ". "]);
        let texts = [
            "abc de, \"fgh\"! a",
            " leading and trailing ",
            "two  blanks\n\nand lines",
            "under_score \\ back\\slash \\u \\92; 10;",
            "Ünïcödé 日本 😀 €",
            "",
        ];
        for text in texts {
            assert_eq!(v.decode(&v.encode(text)).unwrap(), text);
        }
        assert!(v.decode(&[9999]).unwrap_err().to_string().contains("9999"));
        assert_eq!(unescaped("\\x\\99999999;"), "\\x\u{3013}");
    }

    #[test]
    fn samples_are_filled_line_by_line() {
        let v = vocabulary(&[]);
        // Each line is as long as its letters plus one.
        let samples = v.samples(["abc", "de", "fgh", "a"], 8);
        let lengths: Vec<usize> = samples.iter().map(Vec::len).collect();
        assert_eq!(lengths, [8, 8]);
        assert_eq!(samples[0][7], END);
        assert_eq!(v.decode(&samples[0]).unwrap(), "abc de");
        assert_eq!(samples[1][6..], [END, PAD]);
        assert_eq!(v.decode(&samples[1]).unwrap(), "fgh a");
        let long = v.samples(["abcdefghabcdefgh"], 8);
        assert!(long.iter().all(|s| s.len() <= 8));
        assert_eq!(
            long.iter()
                .map(|s| v.decode(s).unwrap())
                .collect::<String>(),
            "abcdefghabcdefgh"
        );
        assert!(v.samples([], 8).is_empty());
    }

    #[test]
    fn another_file_is_told() {
        for (lines, part) in [
            ("{\"format\": \"bytes\"}", "line 1"),
            ("'<pad>'\n'the_'\n", "line 2"),
            ("'<pad>'\n'<EOS>'\n'the_'\n", "alone"),
        ] {
            let message = SubwordsT2t::from_lines(lines, "x.subwords").unwrap_err();
            assert!(message.to_string().contains(part), "{message}");
        }
    }
}
